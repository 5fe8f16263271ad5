"""Which layers can be refitted in closed form, and what each is fitted to."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from autocompress.graph.layers import weight_value
from autocompress.graph.model_graph import ModelGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPoint:
    """A layer with a weight of its own, and the linear steps right behind it.

    Args:
        node: of the layer.
        weight: initializer.
        axis: of the output channels in what the layer writes: 1 or the last.
        inputs: how many numbers a row of the weight is multiplied with.
        bias: initializer of the layer, or of the Add right behind a MatMul; None where it has none.
        batch_norm: initializers of scale, shift, mean and variance of the BatchNormalization right behind.
        epsilon: of that BatchNormalization.
        output: value behind these steps.
        total: the sum that ``output`` is one of two terms of, and of nothing else; None where it is not added.
        other: the other term.
    """

    node: str
    weight: str
    axis: int
    inputs: int
    bias: str | None
    batch_norm: tuple[str, str, str, str] | None
    epsilon: float
    output: str
    total: str | None
    other: str | None

    @property
    def initializers(self) -> frozenset[str]:
        """What is replaced."""
        return frozenset((self.weight, *(self.batch_norm or ()), *([] if self.bias is None else [self.bias])))


def fit_points(graph: ModelGraph, *, without: Collection[str] = ()) -> dict[str, FitPoint]:
    """Node name to what can be fitted there, in topological order.

    Args:
        graph: float32.
        without: weights to leave as they are.
    """
    found = {}
    for node in graph.model.graph:
        weight = weight_value(node)
        if weight is None or weight.dtype != ir.DataType.FLOAT or weight.name in without or not _is_linear(node):
            continue
        point = _point(node, weight)
        if point is not None:
            found[point.node] = point
    return found


def _is_linear(node: ir.Node) -> bool:
    """Whether a node multiplies rows of its input with its weight and adds a bias, and nothing more."""
    if node.op_type == "Gemm":
        factors = {node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
        return factors == {1.0} and not node.attributes.get_int("transA", 0)
    if node.op_type == "MatMul":
        weight = weight_value(node)
        return weight is not None and weight.shape is not None and len(weight.shape) == 2
    return node.op_type == "Conv" and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _point(node: ir.Node, weight: ir.Value) -> FitPoint | None:
    if len(weight.uses()) != 1:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not (_own(bias) and _size(bias) == _outputs(node, weight)):
        return None
    output = node.outputs[0]
    reader = _only_reader(output)
    if node.op_type == "MatMul" and reader is not None and reader.op_type == "Add":
        term = _other_term(reader, output)
        # One number alone is a setting to the executor, and trained by nobody.
        if term is not None and _own(term) and _size(term) == _outputs(node, weight) == _last(term) > 1:
            bias, output = term, reader.outputs[0]
            reader = _only_reader(output)
    batch_norm, epsilon = None, 0.0
    if reader is not None and reader.op_type == "BatchNormalization" and node.op_type != "MatMul":
        vectors = reader.inputs[1:5]
        if any(vector is None or not _own(vector) for vector in vectors):
            return None
        scale, shift, mean, variance = (str(vector.name) for vector in vectors if vector is not None)
        batch_norm = (scale, shift, mean, variance)
        epsilon = reader.attributes.get_float("epsilon", 1e-5)
        output = reader.outputs[0]
        reader = _only_reader(output)
    total = other = None
    if reader is not None and reader.op_type == "Add":
        term = _other_term(reader, output)
        if term is not None and not term.is_initializer() and term is not output:
            total, other = str(reader.outputs[0].name), str(term.name)
    return FitPoint(
        node=str(node.name),
        weight=str(weight.name),
        axis=1 if node.op_type == "Conv" else -1,
        inputs=_inputs(node, weight),
        bias=None if bias is None else str(bias.name),
        batch_norm=batch_norm,
        epsilon=epsilon,
        output=str(output.name),
        total=total,
        other=other,
    )


def _inputs(node: ir.Node, weight: ir.Value) -> int:
    shape = _shape(weight)
    return math.prod(shape[1:]) if _rows_first(node) else shape[0]


def _outputs(node: ir.Node, weight: ir.Value) -> int:
    return _shape(weight)[0 if _rows_first(node) else -1]


def _rows_first(node: ir.Node) -> bool:
    """Whether the first axis of the weight is that of the outputs."""
    return node.op_type == "Conv" or (node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0)))


def _own(value: ir.Value) -> bool:
    """Whether a value is a float32 initializer that nothing else reads."""
    return value.is_initializer() and len(value.uses()) == 1 and value.dtype == ir.DataType.FLOAT


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    return next(iter(uses)).node if len(uses) == 1 and not value.is_graph_output() else None


def _other_term(add: ir.Node, value: ir.Value) -> ir.Value | None:
    first, second = add.inputs
    return second if first is value else first


def _size(value: ir.Value) -> int:
    return math.prod(_shape(value))


def _last(value: ir.Value) -> int:
    return (_shape(value) or [1])[-1]


def _shape(value: ir.Value) -> list[int]:
    assert value.const_value is not None
    return [int(size) for size in value.const_value.shape.numpy()]
