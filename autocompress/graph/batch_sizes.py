"""Sizes that exporters compute at run time although they do not depend on the batch.

Exporters write `n, c, h, w = x.shape` as Shape and Gather. With an open batch folding cannot tell that ``c`` is a
number. So the graph is folded for two batch sizes: what comes out the same for both is constant, and a size that is the
batch in both is the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants

from autocompress.core.errors import ModelError
from autocompress.graph.quiet import quiet
from autocompress.graph.shapes import BATCH, infer_shapes

#: One and a prime: a size that is equal, or five times as large, is so for every batch.
_BATCHES = (1, 5)
_SIZES = frozenset({"Shape", "Size"})
#: Elements; larger constants are no sizes, and would be written into the file.
_MAX_ELEMENTS = 1 << 16


@dataclass(frozen=True, slots=True)
class _Folded:
    """A graph for one batch size: its constants and the shapes of its values."""

    constants: dict[str, NDArray[np.generic]]
    shapes: dict[str, tuple[int | None, ...]]


def fix_batch_free_sizes(model: ir.Model) -> bool:
    """Make constant what does not depend on the batch, and write sizes that do as ``batch`` and -1; in place.

    Returns:
        Whether anything changed.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    if not inputs or not any(node.op_type in _SIZES for node in graph) or not all(map(_open_batch, inputs)):
        return False
    try:
        small, large = (_folded(model, batch) for batch in _BATCHES)
    except ModelError:  # a graph that does not run for one of the sizes stays as it is
        return False
    changed = False
    for node in graph:
        changed |= _fix_target(graph, node, small, large)
        changed |= _fix_repeats(graph, node, small, large)
        for value in node.outputs:
            _fix_shape(value, small, large)
            changed |= _fix_value(graph, value, small, large)
    return changed


def _open_batch(value: ir.Value) -> bool:
    dim = value.shape[0] if value.shape is not None and len(value.shape) else None
    return isinstance(dim, ir.SymbolicDim) and dim.value == BATCH


def _folded(model: ir.Model, batch: int) -> _Folded:
    single = model.clone()
    for value in single.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            value.shape = ir.Shape([batch, *list(value.shape)[1:]])
    for node in single.graph:
        for value in node.outputs:
            value.shape = None
    known = set(single.graph.initializers)
    infer_shapes(single)
    with quiet():
        fold_constants(single, onnx_shape_inference=True, input_size_limit=1 << 40, output_size_limit=_MAX_ELEMENTS)
    infer_shapes(single)
    constants = {
        name: value.const_value.numpy()
        for name, value in single.graph.initializers.items()
        if name not in known and value.const_value is not None
    }
    shapes: dict[str, tuple[int | None, ...]] = {name: array.shape for name, array in constants.items()}
    for node in single.graph:
        for value in node.outputs:
            if node.op_type == "Constant" and value.const_value is not None:
                constants[str(value.name)] = value.const_value.numpy()
            if value.shape is not None:
                shapes[str(value.name)] = tuple(dim if isinstance(dim, int) else None for dim in value.shape)
    return _Folded(constants, shapes)


def _fix_value(graph: ir.Graph, value: ir.Value, small: _Folded, large: _Folded) -> bool:
    """Let readers of a value read an initializer where it is the same for both batches."""
    name = str(value.name)
    first, second = small.constants.get(name), large.constants.get(name)
    if first is None or second is None or value.is_graph_output() or not value.uses():
        return False
    if first.dtype != second.dtype or not np.array_equal(first, second):
        return False
    value.name = f"{name}.computed"
    constant = _initializer(graph, name, first)
    ir.convenience.replace_all_uses_with(value, constant)
    return True


def _fix_target(graph: ir.Graph, node: ir.Node, small: _Folded, large: _Folded) -> bool:
    """Write the one size of a Reshape's target that grows with the batch as -1."""
    target = node.inputs[1] if node.op_type == "Reshape" and len(node.inputs) > 1 else None
    if target is None or target.is_initializer() or node.attributes.get_int("allowzero", 0) != 0:
        return False
    first, second = (folded.constants.get(str(target.name)) for folded in (small, large))
    if first is None or second is None or first.shape != second.shape or (first == -1).any():
        return False
    grows = first != second
    if grows.sum() != 1 or not np.array_equal(first[grows] * _BATCHES[1], second[grows]):
        return False
    constant = _initializer(graph, f"{node.outputs[0].name}.shape", np.where(grows, -1, first).astype(np.int64))
    node.replace_input_with(1, constant)
    return True


def _fix_repeats(graph: ir.Graph, node: ir.Node, small: _Folded, large: _Folded) -> bool:
    """Write the computed target of an Expand out, with 1 for every axis that keeps its size, the batch among them."""
    target = node.inputs[1] if node.op_type == "Expand" else None
    source = node.inputs[0]
    if target is None or target.is_initializer() or source is None or source.shape is None:
        return False
    first, second = (folded.constants.get(str(target.name)) for folded in (small, large))
    if first is None or second is None or first.shape != second.shape or len(source.shape) > len(first):
        return False
    sizes: list[int] = []
    dims = [1] * (len(first) - len(source.shape)) + list(source.shape)
    for low, high, dim in zip(first.tolist(), second.tolist(), dims, strict=True):
        if low == high and isinstance(dim, int):
            sizes.append(1 if low == dim else low)
        elif (low, high) == _BATCHES and isinstance(dim, ir.SymbolicDim) and dim.value == BATCH:
            sizes.append(1)
        else:
            return False
    constant = _initializer(graph, f"{node.outputs[0].name}.shape", np.array(sizes, np.int64))
    node.replace_input_with(1, constant)
    return True


def _fix_shape(value: ir.Value, small: _Folded, large: _Folded) -> None:
    """State the sizes that are the same for both batches, or are the batch."""
    first, second = small.shapes.get(str(value.name)), large.shapes.get(str(value.name))
    if first is None or second is None or len(first) != len(second):
        return
    dims: list[int | ir.SymbolicDim | None] = []
    old = list(value.shape) if value.shape is not None and len(value.shape) == len(first) else [None] * len(first)
    for low, high, known in zip(first, second, old, strict=True):
        if low is not None and low == high:
            dims.append(low)
        elif (low, high) == _BATCHES:
            dims.append(ir.SymbolicDim(BATCH))
        else:
            dims.append(known)
    value.shape = ir.Shape(dims)


def _initializer(graph: ir.Graph, wanted: str, array: NDArray[np.generic]) -> ir.Value:
    name, count = wanted, 1
    while name in graph.initializers:
        count += 1
        name = f"{wanted}.{count}"
    tensor = ir.Tensor(np.array(array), name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value
