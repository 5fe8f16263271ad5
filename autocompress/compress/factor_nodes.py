"""The nodes of low-rank factors in place of a layer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.factors import Matrix
from autocompress.graph.layers import weight_value


def canonical(node: ir.Node, weight: NDArray[Any]) -> NDArray[Any]:
    """A stored weight as ``(out, in, ...)``, and the other way round."""
    turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0))
    return weight.T if turned else weight


def take_apart(
    graph: ir.Graph, node: ir.Node, method: str, name: str, parts: Sequence[Matrix]
) -> dict[str, tuple[int, ...]]:
    """Put the other factors before a layer's node, and make it the last one, in place.

    Args:
        graph: of the node.
        node: of the layer; keeps its bias and what it writes.
        method: that made the factors.
        name: of the layer; its factors are called ``name.0``, ``name.1``, ….
        parts: the factors' weights, ``(out, in, *kernel)``, first applied first.

    Returns:
        Name of each factor to the shape of its weight as stored.
    """
    attributes = _attributes(node, method)
    shapes = _between(node, method, [part.shape[0] for part in parts[:-1]])
    source = node.inputs[0]
    factors: dict[str, tuple[int, ...]] = {}
    for index, part in enumerate(parts):
        stem = f"{name}.{index}"
        array = np.ascontiguousarray(canonical(node, part), np.float32)
        factors[stem] = array.shape
        weight = ir.Value(
            name=f"{stem}.weight",
            const_value=ir.Tensor(array, name=f"{stem}.weight"),
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        graph.register_initializer(weight)
        if index < len(parts) - 1:
            output = ir.Value(name=stem, type=ir.TensorType(ir.DataType.FLOAT), shape=shapes[index])
            made = ir.Node("", node.op_type, [source, weight], attributes[index].values(), name=stem, outputs=[output])
            graph.insert_before(node, made)
            source = output
        else:
            node.replace_input_with(0, source)
            node.replace_input_with(1, weight)
            node.name = stem
            node.attributes.clear()
            node.attributes.update(attributes[index])
    return factors


def _attributes(node: ir.Node, method: str) -> list[dict[str, ir.Attr]]:
    """Attributes of each factor's node."""
    own = dict(node.attributes)
    if node.op_type != "Conv":
        # The first reads the input as it lies; the last scales and adds the bias.
        first = {key: attr for key, attr in own.items() if key in ("transA", "transB")}
        return [first, {key: attr for key, attr in own.items() if key != "transA"}]
    value = weight_value(node)
    assert value is not None
    assert value.shape is not None
    kernel = [int(size) for size in value.shape[2:] if isinstance(size, int)]
    plain = {"kernel_shape": ir.AttrInt64s("kernel_shape", [1] * len(kernel))}
    if method == "svd":
        return [own, plain]
    if method == "tucker2":
        return [plain, own, plain]
    return [_one_axis(own, kernel, axis) for axis in (0, 1)]


def _one_axis(attributes: Mapping[str, ir.Attr], kernel: list[int], axis: int) -> dict[str, ir.Attr]:
    """A convolution's attributes along one of two axes; along the other it does nothing."""
    other = 1 - axis
    found = dict(attributes)
    for key, nothing in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 0)):
        attr = attributes.get(key)
        numbers = list(attr.as_ints()) if attr is not None else (kernel if key == "kernel_shape" else None)
        if numbers is None:
            continue
        numbers = [nothing if index % 2 == other else number for index, number in enumerate(numbers)]
        found[key] = ir.AttrInt64s(key, numbers)
    return found


def _between(node: ir.Node, method: str, channels: Sequence[int]) -> list[ir.Shape | None]:
    """Shapes of the values between the factors."""
    read, written = node.inputs[0], node.outputs[0]
    if read is None or read.shape is None or written.shape is None:
        return [None] * len(channels)
    axis = 1 if node.op_type == "Conv" else len(written.shape) - 1
    bases: list[list[Any]] = [list(written.shape)]
    if method == "spatial":
        bases = [[*list(written.shape)[:-1], read.shape[-1]]]
    elif method == "tucker2":
        bases = [list(read.shape), list(written.shape)]
    for base, size in zip(bases, channels, strict=True):
        base[axis] = size
    return [ir.Shape(base) for base in bases]
