"""Where integers go: which values of a graph are quantized, given which layers compute in integers.

ONNX Runtime turns ``DequantizeLinear -> operator -> QuantizeLinear`` into one integer kernel where it finds the pattern
whole. So a chain of integer layers is kept free of float islands: an operator between integers joins them, and a Relu
or Clip behind a layer stays inside its pattern (its range starts at zero, so the runtime drops it).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

#: They move numbers without changing them: their output keeps the input's scale, and its range.
LAYOUT = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
#: Besides those, operators whose output lies within the input's range and keeps its scale.
_MOVERS = LAYOUT | {"MaxPool", "Slice", "Split", "Resize"}
#: Operators with integer kernels of their own.
_INTEGER = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"})
#: The runtime drops them before a QuantizeLinear that clips at the same bounds.
ACTIVATIONS = frozenset({"Relu", "Clip"})
#: Operators that join their integer neighbours.
FOLLOWERS = _MOVERS | _INTEGER | ACTIVATIONS
#: Operators that read activations at every input; the others at the first only.
_MANY = frozenset({"Add", "Mul", "Concat"})
#: Layers whose integer kernel can write float32 just as well.
_FLOAT_OUT = frozenset({"Gemm", "MatMul"})


@dataclass(slots=True)
class Placement:
    """Where integers go in one graph.

    Args:
        values: quantized value to the value whose scale it takes (itself, or what a mover moves), in topological order.
        nodes: that compute in integers.
    """

    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    nodes: set[ir.Node] = field(default_factory=set)


def place(graph: ir.Graph, layers: Collection[ir.Node]) -> Placement:
    """Decide which values become integers.

    A layer's input always does. A Conv's output does, as its kernel writes nothing else; that of a Gemm or MatMul only
    where integers read it. An operator joins where all that it reads is quantized and something but the graph's outputs
    reads its result: what only leads to outputs stays as exact as it can.

    Args:
        graph: float32, BatchNormalization folded.
        layers: nodes that compute in integers.
    """
    integer = set(layers)
    nodes = list(graph)
    direct = {node.inputs[0] for node in integer}
    wanted, useful = _demand(nodes, integer)
    result = Placement()
    for value in graph.inputs:
        if value in direct:
            result.values[value] = value
    for node in nodes:
        end = _pattern_end(node)
        if node in integer:
            if node.op_type not in _FLOAT_OUT or end in wanted:
                _join(node, end, result)
            else:
                result.nodes.add(node)
        elif _follows(node, result) and any(value in useful for value in (*node.outputs, end)):
            if node.op_type in _MOVERS:
                result.nodes.add(node)
                source = node.inputs[0]
                assert source is not None
                result.values.update(dict.fromkeys(node.outputs, result.values[source]))
            else:
                _join(node, end, result)
        for value in node.outputs:
            if value in direct:
                result.values.setdefault(value, value)
    return result


def observed_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Values that some choice of layers may quantize with a scale of their own, in topological order."""
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            yield value
    for node in graph:
        if node.op_type not in LAYOUT and _pattern_end(node) is node.outputs[0]:
            yield from (value for value in node.outputs if value.dtype == ir.DataType.FLOAT)


def moved_from(graph: ir.Graph) -> Iterator[tuple[str, str]]:
    """Values that only have another layout than the one they come from: their name and its, in topological order."""
    for node in graph:
        source = node.inputs[0] if node.inputs else None
        if node.op_type in LAYOUT and source is not None and source.dtype == ir.DataType.FLOAT:
            yield str(node.outputs[0].name), str(source.name)


def _join(node: ir.Node, end: ir.Value, result: Placement) -> None:
    result.nodes.add(node)
    result.values.setdefault(end, end)
    activation = end.producer()
    if activation is not None:
        result.nodes.add(activation)


def _pattern_end(node: ir.Node) -> ir.Value:
    """The value behind a Relu or Clip that is all that reads the node's output, else that output."""
    output = node.outputs[0]
    uses = output.uses()
    if len(uses) != 1 or output.is_graph_output() or node.op_type in ACTIVATIONS or node.op_type in _MOVERS:
        return output
    reader, index = next(iter(uses))
    return reader.outputs[0] if reader.op_type in ACTIVATIONS and index == 0 else output


def _follows(node: ir.Node, placed: Placement) -> bool:
    """Whether an operator has an integer kernel and reads nothing but integers."""
    if node.op_type not in FOLLOWERS or node in placed.nodes:
        return False
    activations = node.inputs if node.op_type in _MANY else node.inputs[:1]
    return all(value is not None and value in placed.values for value in activations)


def _demand(nodes: list[ir.Node], integer: set[ir.Node]) -> tuple[set[ir.Value | None], set[ir.Value | None]]:
    """Values that an integer layer reads in the end, and values that anything but the graph's outputs reads."""
    wanted: set[ir.Value | None] = set()
    useful: set[ir.Value | None] = set()
    for node in reversed(nodes):
        follower = node.op_type in FOLLOWERS and node not in integer
        activations = node.inputs if node.op_type in _MANY else node.inputs[:1]
        if node in integer or (follower and any(value in wanted for value in node.outputs)):
            wanted.update(activations)
        if not follower or any(value in useful for value in node.outputs):
            useful.update(node.inputs)
    return wanted, useful
