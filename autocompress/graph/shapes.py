"""Shapes of every value: inferred once on import, and for one sample where costs are counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from autocompress.core.errors import ModelError
from autocompress.graph.quiet import first_line

if TYPE_CHECKING:
    from autocompress.graph.model_graph import ModelGraph

#: Name of the batch axis where it is dynamic.
BATCH = "batch"
#: Initializers up to this many bytes may be shapes and axes, which inference reads.
_READ_BYTES = 1024

Sizes = tuple[int | None, ...]


def infer_shapes(model: ir.Model) -> None:
    """Infer type and shape of every value, in place.

    Raises:
        ModelError: the graph contradicts itself, such as a Conv whose input has other channels than its weight.
    """
    original = {value.name: value for node in model.graph for value in node.outputs if value.name}
    inferred = _inferred(model)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        known = original.get(value.name)
        if known is None or not value.type.HasField("tensor_type"):
            continue
        shape = ir.serde.deserialize_type_proto_for_shape(value.type)
        if shape is not None:
            known.shape = shape
        known.type = ir.serde.deserialize_type_proto_for_type(value.type)


def sample_shapes(graph: ModelGraph) -> Mapping[str, Sizes]:
    """Shapes of all values for a batch of one; a size that stays open is None.

    With a dynamic batch, sizes computed from it (a batch folded into another axis) are inferred anew for one sample.
    A fixed batch stays: its shapes are those of that batch.
    """
    values = graph.values
    shapes = {name: graph.value_shape(name) for name in values}
    if not graph.batch_axis_dynamic:
        return {name: sizes for name, sizes in shapes.items() if sizes is not None}
    if all(_only_batch(value) for value in values.values()):
        return {name: (1, *s[1:]) if s[:1] == (None,) else s for name, s in shapes.items() if s is not None}
    single = graph.model.clone()
    for value in single.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([1, *list(value.shape)[1:]])
    for node in single.graph:
        for value in node.outputs:
            value.shape = None
    try:
        infer_shapes(single)
    except ModelError:  # a graph for batches only; what is known without inference has to do
        return {name: sizes for name, sizes in shapes.items() if sizes is not None}
    from autocompress.graph.model_graph import ModelGraph

    found = ModelGraph(single)
    return {name: sizes for name in values if (sizes := found.value_shape(name)) is not None}


def name_batch_axis(model: ir.Model) -> None:
    """Call the first axis of the inputs ``batch`` where all of them leave it open under one name or none."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    first = [value.shape[0] if value.shape is not None and len(value.shape) else 0 for value in inputs]
    names = {dim.value for dim in first if isinstance(dim, ir.SymbolicDim) and dim.value is not None}
    if not first or any(isinstance(dim, int) for dim in first) or len(names) > 1:
        return
    for value in inputs:
        assert value.shape is not None
        value.shape = ir.Shape([ir.SymbolicDim(BATCH), *list(value.shape)[1:]])
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: set[str]) -> int | ir.SymbolicDim:
    return ir.SymbolicDim(BATCH) if isinstance(dim, ir.SymbolicDim) and dim.value in names else dim


def _only_batch(value: ir.Value) -> bool:
    """Whether every size is fixed, but for a batch on the first axis."""
    if value.shape is None:
        return False
    dims = list(value.shape)
    if dims and isinstance(dims[0], ir.SymbolicDim) and dims[0].value == BATCH:
        dims = dims[1:]
    return all(isinstance(dim, int) for dim in dims)


def structure(model: ir.Model) -> onnx.ModelProto:
    """The model for ONNX's own tools, which copy it: large initializers become inputs of their shape."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _READ_BYTES:
            value.shape = ir.Shape(tensor.shape.numpy())
            value.type = ir.TensorType(tensor.dtype)
            del copy.graph.initializers[name]
            copy.graph.inputs.append(value)
    return ir.to_proto(copy)


def _inferred(model: ir.Model) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(structure(model), check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"The graph contradicts itself: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The innermost complaint: strict inference nests one line for each level."""
    return first_line(error).removeprefix("[ShapeInferenceError] ")
