"""How each operator hands channels on: one rule an operator.

A rule reads the axes of the node's inputs, couples what must leave together, and says what the output's axes are. The
invariant that makes slicing exact: every entry that is kept is computed from kept entries only, except in Conv, Gemm
and MatMul, whose weights lose the entries that multiplied what was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from autocompress.core.layer import Role
from autocompress.graph import channel_layout as layout
from autocompress.graph import channel_products as products
from autocompress.graph.channel_tracker import (
    Axis,
    ChannelTracker,
    Ids,
    NotFollowedError,
    constant,
    sizes,
    title,
)

#: Operators with subgraphs; what they read and give keeps its channels.
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
Rule = Callable[[ChannelTracker, ir.Node], None]


def follow(tracker: ChannelTracker, node: ir.Node) -> None:
    """Apply the rule of a node's operator; where there is none, or it gives up, block what the node touches."""
    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    reason = "is control flow" if node.op_type in CONTROL_FLOW else "is not followed"
    if rule is not None:
        try:
            rule(tracker, node)
            return
        except NotFollowedError as error:
            reason = str(error)
    _give_up(tracker, node, reason)


def _give_up(tracker: ChannelTracker, node: ir.Node, reason: str) -> None:
    for value in (*node.inputs, *_captured(node)):
        if value is None:
            continue
        try:
            axes = tracker.axes(value)
        except NotFollowedError:
            continue
        for axis in axes:
            tracker.block(axis, f"reaches {title(node)}, which {reason}")
    for value in node.outputs:
        if value.shape is not None:
            tracker.set_axes(value, [f"comes out of {title(node)}"] * len(value.shape))


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """What the subgraphs of control flow read from outside."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        else:
            graphs = list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
        for graph in graphs:
            for inner in graph.all_nodes():
                yield from (value for value in inner.inputs if value is not None and value.graph is node.graph)
            yield from (value for value in graph.outputs if value.graph is node.graph)


def _join_bias(tracker: ChannelTracker, node: ir.Node, position: int, channels: Axis) -> None:
    bias = node.inputs[position] if position < len(node.inputs) else None
    if bias is not None:
        tracker.couple(channels, tracker.axes(bias)[0], node)
        tracker.set_role(bias, 0, "bias")


def _couple_across(tracker: ChannelTracker, node: ir.Node, ids: Ids, groups: int) -> None:
    """Entries at one place of every group leave together, so that the groups stay equal."""
    rows = ids.reshape(groups, -1)
    tracker.couple(rows[1:], np.broadcast_to(rows[:1], rows[1:].shape), node)


def _conv(tracker: ChannelTracker, node: ir.Node) -> None:
    weight, (out, into, *_) = products.weight_of(tracker, node, 1)
    source = tracker.axes(node.inputs[0])
    sizes(node.inputs[0])  # pruning reads and writes shapes around a convolution
    sizes(node.outputs[0])
    groups = node.attributes.get_int("group", 1)
    if groups > 1 and into.size == 1:
        # Depthwise: a group is one channel, and leaves whole.
        joined = source[1] if isinstance(source[1], str) else np.repeat(source[1], out.size // groups)
        tracker.couple(joined, out, node)
    else:
        tracker.couple(source[1], np.tile(into, groups) if groups > 1 else into, node)
        tracker.set_role(weight, 1, "in")
        if groups > 1:
            _couple_across(tracker, node, out, groups)
    tracker.set_role(weight, 0, "out")
    tracker.producers.append((node, out))
    _join_bias(tracker, node, 2, out)
    tracker.set_axes(node.outputs[0], (source[0], out, *layout.positions(tracker, node, source[2:])))


def _conv_transpose(tracker: ChannelTracker, node: ir.Node) -> None:
    weight, (into, out_of_group, *_) = products.weight_of(tracker, node, 1)
    source = tracker.axes(node.inputs[0])
    groups = node.attributes.get_int("group", 1)
    tracker.couple(source[1], into, node)
    if groups > 1 and into.size == groups:
        out = np.repeat(into, out_of_group.size)
        tracker.set_role(weight, 0, "out")
    else:
        out = np.tile(out_of_group, groups) if groups > 1 else out_of_group
        tracker.set_role(weight, 0, "in")
        tracker.set_role(weight, 1, "out")
        if groups > 1:
            _couple_across(tracker, node, into, groups)
    tracker.producers.append((node, out))
    _join_bias(tracker, node, 2, out)
    tracker.set_axes(node.outputs[0], (source[0], out, *layout.positions(tracker, node, source[2:])))


def _whole(tracker: ChannelTracker, node: ir.Node) -> None:
    """Recurrent layers are never pruned: their gates share one weight, and their state meets itself."""
    raise NotFollowedError("is kept whole")


def _channel_normalization(tracker: ChannelTracker, node: ir.Node) -> None:
    """BatchNormalization and InstanceNormalization: every channel for itself; the latter mixes all its positions."""
    source = tracker.axes(node.inputs[0])
    if node.op_type == "InstanceNormalization":
        source = (*source[:2], *layout.positions(tracker, node, source[2:]))
    roles: tuple[Role, ...] = ("scale", "bias", "other", "other")
    for value, role in zip(node.inputs[1:], roles, strict=False):
        tracker.couple(source[1], tracker.axes(value)[0], node)
        tracker.set_role(value, 0, role)
    tracker.set_axes(node.outputs[0], source)


def _layer_normalization(tracker: ChannelTracker, node: ir.Node) -> None:
    source = tracker.axes(node.inputs[0])
    first = node.attributes.get_int("axis", -1) % len(source)
    reason = f"is normalized over by {title(node)}"
    parameters = [axis for value in node.inputs[1:] if value is not None for axis in tracker.axes(value)]
    for axis in (*source[first:], *parameters):
        tracker.block(axis, reason)
    tracker.set_axes(node.outputs[0], (*source[:first], *[reason] * (len(source) - first)))


def _elementwise(tracker: ChannelTracker, node: ir.Node) -> None:
    """Any number of inputs that broadcast; an axis of one entry couples nothing."""
    values = [value for value in node.inputs if value is not None]
    shapes = [sizes(value) for value in values]
    rank = max(len(shape) for shape in shapes)
    result: list[Axis] = []
    for back in range(rank, 0, -1):
        deep = [(v, shape) for v, shape in zip(values, shapes, strict=True) if len(shape) >= back]
        met = [(shape[-back], tracker.axes(value)[-back]) for value, shape in deep]
        wide = [axis for size, axis in met if size != 1]
        result.append(tracker.couple_all(wide or [axis for _, axis in met], node))
    role = _PARAMETER_ROLES.get(node.op_type)
    for value, shape in zip(values, shapes, strict=True):
        for axis in range(len(shape) if role is not None else 0):
            tracker.set_role(value, axis, role or "other")
    tracker.set_axes(node.outputs[0], result)


def _same(tracker: ChannelTracker, node: ir.Node) -> None:
    """Every entry for itself; further inputs are scalars."""
    for value in node.inputs[1:]:
        if value is not None and any(size != 1 for size in sizes(value)):
            raise NotFollowedError(f"reads {value.name!r}, which is no scalar")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise NotFollowedError("has more than one output in use")
    tracker.set_axes(node.outputs[0], tracker.axes(node.inputs[0]))


def _pool(tracker: ChannelTracker, node: ir.Node) -> None:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise NotFollowedError("gives indices that count channels")
    source = tracker.axes(node.inputs[0])
    tracker.set_axes(node.outputs[0], (*source[:2], *layout.positions(tracker, node, source[2:])))


def _over_axis(default: int) -> Rule:
    """One axis is mixed, and stays; the others go on."""

    def rule(tracker: ChannelTracker, node: ir.Node) -> None:
        axes = list(tracker.axes(node.inputs[0]))
        axis = node.attributes.get_int("axis", default) % len(axes)
        reason = f"is mixed by {title(node)}"
        tracker.block(axes[axis], reason)
        axes[axis] = reason
        tracker.set_axes(node.outputs[0], axes)

    return rule


def _reduce(tracker: ChannelTracker, node: ir.Node) -> None:
    source = tracker.axes(node.inputs[0])
    given = constant(node, 1)
    if given is not None and given.size:
        reduced = {int(axis) % len(source) for axis in given.ravel().tolist()}
    elif node.attributes.get_int("noop_with_empty_axes", 0):
        reduced = set()
    else:
        reduced = set(range(len(source)))
    _drop(tracker, node, source, reduced)


def _arg(tracker: ChannelTracker, node: ir.Node) -> None:
    source = tracker.axes(node.inputs[0])
    _drop(tracker, node, source, {node.attributes.get_int("axis", 0) % len(source)})


def _drop(tracker: ChannelTracker, node: ir.Node, source: tuple[Axis, ...], reduced: set[int]) -> None:
    """Block the axes that are reduced; the others go on."""
    reason = f"is reduced by {title(node)}"
    for axis in reduced:
        tracker.block(source[axis], reason)
    keep = node.attributes.get_int("keepdims", 1)
    kept = [reason if index in reduced else axis for index, axis in enumerate(source) if keep or index not in reduced]
    tracker.set_axes(node.outputs[0], kept)


_PARAMETER_ROLES: dict[str, Role] = {"Mul": "scale", "Div": "scale", "PRelu": "scale", "Add": "bias", "Sub": "bias"}
_ELEMENTWISE = (
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
    "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_SAME = (
    "Abs", "Acos", "Asin", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp",
    "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
    "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "BatchNormalization": _channel_normalization,
    "Concat": layout.concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": layout.depth_to_space,
    "Einsum": products.einsum,
    "Expand": layout.expand,
    "Flatten": layout.reshape,
    "GRU": _whole,
    "Gather": layout.gather,
    "Gemm": products.gemm,
    "Hardmax": _over_axis(-1),
    "InstanceNormalization": _channel_normalization,
    "LRN": _over_axis(1),
    "LSTM": _whole,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _over_axis(-1),
    "LpNormalization": _over_axis(-1),
    "MatMul": products.mat_mul,
    "Pad": layout.pad,
    "RNN": _whole,
    "Reshape": layout.reshape,
    "Resize": layout.resize,
    "Shape": layout.shape,
    "Slice": layout.slice_,
    "Softmax": _over_axis(-1),
    "SpaceToDepth": layout.space_to_depth,
    "Split": layout.split,
    "Squeeze": layout.squeeze,
    "Tile": layout.tile,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
