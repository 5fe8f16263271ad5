"""Which of several axes a Reshape should hand its channels to: one that no later operator mixes.

``(n, tokens, heads * size)`` becomes ``(n, tokens, heads, size)``: the units can be heads, or places within all heads,
but not both. Attention sums over the places within a head and treats heads alike, so heads can leave and places cannot.
A channel shuffle treats both axes alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from autocompress.graph.channel_runs import reshape_runs
from autocompress.graph.channel_tracker import NotFollowedError

#: Readers looked at for one axis; what comes later is rarely reached without another Reshape.
_LIMIT = 64
#: Operators that cut or lengthen an axis, and leave the others as they are.
_CUTS = frozenset({"Split", "Slice", "Gather", "Concat", "Tile", "Pad", "Resize", "CumSum"})
_NORMALIZES_ONE = frozenset({"Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "ArgMax", "ArgMin"})
_WINDOWS = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
)
_STOPS = frozenset({"Shape", "Gemm", "LSTM", "GRU", "RNN", "DepthToSpace"})


def best_axis(value: ir.Value, candidates: Sequence[int]) -> int:
    """The axis to hand channels to.

    Returns:
        The last axis that numbers the matrices of a product of two computed values (heads do), else the last one that
        no reader mixes, else the last.
    """
    fit = {axis: _fitness(value, axis) for axis in candidates}
    return max(candidates, key=lambda axis: (fit[axis], axis))


def _fitness(value: ir.Value, axis: int) -> int:
    """0 where a reader sums over an axis, normalizes over it, cuts it or takes it for positions; 2 where it is batched.

    An axis is batched where it numbers the matrices of a product of two computed values; 1 is everything else.
    """
    waiting, seen = [(value, axis)], {(value, axis)}
    found = 1
    while waiting and len(seen) < _LIMIT:
        source, at = waiting.pop()
        rank = _rank(source)
        for node, position in source.uses():
            following = _follow(node, position, at, rank)
            if following is None:
                return 0
            if node.op_type in ("MatMul", "Einsum") and _is_batched(node, position, at, rank):
                found = 2
            fresh = [place for place in following if place not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
    return found


def _is_batched(node: ir.Node, position: int, axis: int, rank: int) -> bool:
    if any(value is None or value.is_initializer() for value in node.inputs):
        return False
    if node.op_type == "MatMul":
        return axis < rank - 2
    terms, output = _letters(node)
    letter = terms[position][axis : axis + 1]
    return bool(letter) and letter in output and all(letter in term for term in terms)


def _letters(node: ir.Node) -> tuple[list[str], str]:
    inputs, _, output = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    return inputs.split(","), output


def _follow(node: ir.Node, position: int, axis: int, rank: int) -> list[tuple[ir.Value, int]] | None:
    """Where an axis of one input goes; nowhere where following ends, None where the node mixes it."""
    kind = node.op_type
    if kind in _STOPS or node.domain not in ("", "ai.onnx"):
        return []
    if kind == "Einsum":
        terms, result = _letters(node)
        letter = terms[position][axis : axis + 1]
        return [(node.outputs[0], result.index(letter))] if letter and letter in result else None
    if kind in ("Reshape", "Flatten"):
        return _through_reshape(node, axis)
    if kind == "MatMul":
        return _through_product(node, position, axis, rank)
    if kind == "Transpose":
        order = list(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))
        return [(node.outputs[0], order.index(axis))]
    if kind in _WINDOWS or kind == "InstanceNormalization":
        return None if axis >= 2 else []
    if kind == "LayerNormalization":
        return None if axis >= node.attributes.get_int("axis", -1) % rank else [(node.outputs[0], axis)]
    if kind in _NORMALIZES_ONE or (kind in _CUTS and "axis" in node.attributes) or kind in ("Split", "Gather"):
        default = -1 if kind in _NORMALIZES_ONE else 0
        return _through_cut(node, position, axis, node.attributes.get_int("axis", default) % rank)
    if kind.startswith("Reduce") or kind in ("Squeeze", "Unsqueeze"):
        return _through_listed(node, axis, rank)
    if kind in _CUTS:
        unchanged = _size(node.inputs[0], axis) == _size(node.outputs[0], axis)
        return [(node.outputs[0], axis)] if unchanged else None
    # Everything else works on single entries that broadcast from the right.
    return [(output, axis + _rank(output) - rank) for output in node.outputs if output.shape is not None]


def _through_reshape(node: ir.Node, axis: int) -> list[tuple[ir.Value, int]]:
    """Follow an axis that stays, or is merged into one; one that is split is decided about there."""
    try:
        runs = reshape_runs(node)
    except NotFollowedError:
        return []
    run = next(run for run in runs if axis in run.before)
    return [(node.outputs[0], run.after.start)] if len(run.after) == 1 else []


def _through_product(node: ir.Node, position: int, axis: int, rank: int) -> list[tuple[ir.Value, int]] | None:
    other = node.inputs[1 - position]
    if axis == (rank - 1 if position == 0 else rank - 2):
        # A weight loses the entries that multiplied what leaves.
        return [] if other is not None and other.is_initializer() else None
    output = node.outputs[0]
    return [(output, axis + _rank(output) - rank)] if output.shape is not None else []


def _through_cut(node: ir.Node, position: int, axis: int, cut: int) -> list[tuple[ir.Value, int]] | None:
    if node.op_type == "Gather" and position == 1:
        return []
    if axis == cut:
        return None
    indices = node.inputs[1] if node.op_type == "Gather" else None
    shift = _rank(indices) - 1 if indices is not None and axis > cut else 0
    return [(output, axis + shift) for output in node.outputs]


def _through_listed(node: ir.Node, axis: int, rank: int) -> list[tuple[ir.Value, int]] | None:
    """Reductions, Squeeze and Unsqueeze: their axes are an input."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = given.const_value if given is not None else None
    output = node.outputs[0]
    full = _rank(output) if node.op_type == "Unsqueeze" else rank
    if tensor is None or not full:
        return None
    listed = {int(at) % full for at in tensor.numpy().ravel()}
    if node.op_type == "Unsqueeze":
        return [(output, [at for at in range(full) if at not in listed][axis])]
    if axis in listed:
        return None
    keeps = node.op_type != "Squeeze" and node.attributes.get_int("keepdims", 1) != 0
    return [(output, axis if keeps else axis - sum(at < axis for at in listed))]


def _rank(value: ir.Value | None) -> int:
    if value is None:
        return 0
    if value.const_value is not None:
        return len(value.const_value.shape)
    return len(value.shape) if value.shape is not None else 0


def _size(value: ir.Value | None, axis: int) -> object:
    return value.shape[axis] if value is not None and value.shape is not None and axis < len(value.shape) else None
