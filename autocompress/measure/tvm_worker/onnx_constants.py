"""An ONNX file as TVM's importer wants it: dense, one opset, constants folded, packed weights unpacked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from autocompress.core.errors import ModelError
from autocompress.graph.serializing import densify

_STANDARD = ("", "ai.onnx")
#: Their integers are what integer kernels read; the importer folds what is left of them.
_KEPT = frozenset({"DequantizeLinear", "QuantizeLinear"})


def read_model(path: str | Path) -> onnx.ModelProto:
    """A model file with its weights in memory and every operator on constants evaluated.

    Weights stored in 4, 3, 2 or 6 bits come out as int8; a bias in int32 steps comes out in float32.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own kinds
        raise ModelError(f"{str(path)!r} is not an ONNX model.") from error
    densify(model)
    fold_constants(model)
    fold_batch_norms(model)
    return model


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Initializers as arrays, by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def fold_constants(model: onnx.ModelProto) -> None:
    """Evaluate, in place, what depends on initializers alone; initializers that nothing reads any more go."""
    constants = constants_of(model)
    kept, changed = [], False
    for node in model.graph.node:
        values = _evaluated(node, constants, model) if _foldable(node, constants) else None
        if values is None:
            kept.append(node)
            continue
        changed = True
        for name, value in zip(node.output, values, strict=True):
            constants[name] = value
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    if not changed:
        return
    del model.graph.node[:]
    model.graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | {output.name for output in model.graph.output}
    read |= {name for node in kept for attribute in node.attribute for name in _names_inside(attribute)}
    left = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)


def fold_batch_norms(model: onnx.ModelProto) -> None:
    """Put every BatchNormalization behind a Conv of its own into that Conv's weight and bias, in place."""
    constants = constants_of(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    readers.update(output.name for output in model.graph.output)
    for node in list(model.graph.node):
        conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" and len(node.output) == 1 else None
        if conv is None or conv.op_type != "Conv" or readers[conv.output[0]] > 1:
            continue
        names = [*node.input[1:5], conv.input[1], *conv.input[2:3]]
        if not all(name in constants for name in names):
            continue
        scale, shift, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight = constants[conv.input[1]]
        bias = constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else 0.0
        shaped = factor.reshape(-1, *[1] * (weight.ndim - 1))
        for place, array in ((1, weight * shaped), (2, (bias - mean) * factor + shift)):
            name = f"{node.output[0]}.folded.{place}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(weight.dtype), name))
            conv.input[place:] = [name, *conv.input[place + 1 :]]
        conv.output[0] = node.output[0]
        model.graph.node.remove(node)


def _foldable(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> bool:
    if node.domain not in _STANDARD or any(attribute.HasField("g") for attribute in node.attribute):
        return False
    if node.op_type == "Constant":
        return True
    known = bool(node.input) and all(name in constants for name in node.input if name)
    bias = node.op_type == "DequantizeLinear" and known and constants[node.input[0]].dtype == np.int32
    return known and (node.op_type not in _KEPT or bias)


def _evaluated(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]], model: onnx.ModelProto
) -> list[NDArray[Any]] | None:
    """What a node gives, or None where the reference implementation cannot tell."""
    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = [onnx.helper.make_tensor_value_info(n, _element_type(constants[n]), constants[n].shape) for n in names]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "constant", inputs, outputs)
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        return [np.asarray(v) for v in ReferenceEvaluator(single).run(None, {n: constants[n] for n in names})]
    except Exception:  # what it cannot evaluate stays an operator
        return None


def _element_type(array: NDArray[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _names_inside(attribute: onnx.AttributeProto) -> set[str]:
    """What the graph in an attribute reads from outside."""
    return {name for node in attribute.g.node for name in node.input} | {output.name for output in attribute.g.output}
