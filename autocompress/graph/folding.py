"""Fold what is constant, so that weights are initializers under their own names."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from autocompress.graph.quiet import quiet
from autocompress.graph.shapes import BATCH

#: Operators that only change how a weight is laid out: the result is still that weight.
VIEWS = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})
_STANDARD = ("", "ai.onnx")
#: Elements; a folded constant may be larger only where it replaces one of its size.
_MAX_ELEMENTS = 1 << 20
_ANY_SIZE = 1 << 40
_INT64 = ir.TensorType(ir.DataType.INT64)
_PACKED = frozenset({ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.FLOAT4E2M1})


def fold(model: ir.Model) -> None:
    """Evaluate every operator on constants, in place.

    BatchNormalization is not merged into Conv, QuantizeLinear and DequantizeLinear stay, and so does the Cast that
    unpacks a 4- or 2-bit weight. A weight that was only transposed or reshaped keeps its name.
    """
    own_initializers(model.graph)
    names = _weight_names(model.graph)
    with quiet():
        fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=_ANY_SIZE,
            output_size_limit=_MAX_ELEMENTS,
            should_fold=_should_fold,
        )
    for folded, name in names.items():
        value = model.graph.initializers.get(folded)
        taken = model.graph.initializers.get(name)
        if value is None or (taken is not None and taken.uses()):
            continue
        if taken is not None:
            del model.graph.initializers[name]
        value.name = name
        if value.const_value is not None:
            value.const_value.name = name


def own_initializers(graph: ir.Graph) -> None:
    """Give every Identity of an initializer that others read too an initializer of its own.

    The TorchScript exporter merges equal parameters through Identity; they are different parameters all the same.
    """
    for node in list(graph):
        if node.op_type != "Identity" or node.domain not in _STANDARD:
            continue
        source, output = node.inputs[0], node.outputs[0]
        if source is None or not source.is_initializer() or source.const_value is None or output.is_graph_output():
            continue
        name = output.name
        if len(source.uses()) == 1 or name is None or name in graph.initializers:
            continue
        own = ir.Value(name=name, const_value=source.const_value, shape=source.shape, type=source.type)
        ir.convenience.replace_all_uses_with(output, own)
        graph.remove(node, safe=True)
        graph.register_initializer(own)


def _weight_names(graph: ir.Graph) -> dict[str, str]:
    """What a chain of view operators from an initializer that nobody else reads ends in, to the initializer's name."""
    found: dict[str, str] = {}
    for name, value in graph.initializers.items():
        end = value
        while len(uses := end.uses()) == 1:
            node, position = next(iter(uses))
            if node.op_type not in VIEWS or node.domain not in _STANDARD or position != 0:
                break
            end = node.outputs[0]
        if end is not value and end.name:
            found[end.name] = name
    return found


def _should_fold(node: ir.Node) -> bool | None:
    source = node.inputs[0].const_value if node.inputs and node.inputs[0] is not None else None
    if source is None:
        return None
    if node.op_type == "BitShift" or (node.op_type == "Cast" and source.dtype in _PACKED):
        # Weights in few bits stay so.
        return False
    # The folder keeps ConstantOfShape for its size; a small one is often part of a shape.
    if node.op_type == "ConstantOfShape" and math.prod(np.atleast_1d(source.numpy()).tolist()) <= 64:
        return True
    return None


def fix_reshapes(graph: ir.Graph) -> bool:
    """Make the computed target of a Reshape constant where its result has at most one open size.

    Returns:
        Whether anything changed.
    """
    changed = False
    for node in graph:
        target = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
        if target is None or target.is_initializer():
            continue
        sizes = _reshaped(node.inputs[0], node.outputs[0])
        if sizes is None:
            continue
        name = _free_name(graph, f"{node.outputs[0].name}.shape")
        tensor = ir.tensor(np.array(sizes, np.int64), name=name)
        constant = ir.Value(name=name, const_value=tensor, shape=ir.Shape([len(sizes)]), type=_INT64)
        graph.register_initializer(constant)
        node.replace_input_with(1, constant)
        changed = True
    return changed


def _reshaped(source: ir.Value | None, result: ir.Value) -> list[int] | None:
    """Target of a Reshape with -1 for the batch (or the one open size); None where more stays open."""
    if result.shape is None or 0 in result.shape:
        return None
    dims = [dim if isinstance(dim, int) else -1 for dim in result.shape]
    if dims.count(-1) < 2:
        return dims
    # ONNX's inference leaves (batch, 4, 3) -> (batch, -1) open: the other factor of the batch is what is missing.
    if dims.count(-1) > 2 or source is None or source.shape is None:
        return None
    known = [dim for dim in source.shape if isinstance(dim, int)]
    batches = [index for index, dim in enumerate(result.shape) if _is_batch(dim)]
    if len(known) != len(source.shape) - 1 or not any(map(_is_batch, source.shape)) or len(batches) != 1:
        return None
    missing, rest = divmod(math.prod(known), math.prod(dim for dim in dims if dim > 0))
    if rest:
        return None
    return [dim if dim > 0 or index == batches[0] else missing for index, dim in enumerate(dims)]


def _is_batch(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value == BATCH


def _free_name(graph: ir.Graph, wanted: str) -> str:
    taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}.{count}"
    return name
