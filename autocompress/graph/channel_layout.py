"""Channel rules of the operators that only move entries: Reshape, Transpose, Concat, Split and their kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from autocompress.graph.channel_lookahead import best_axis
from autocompress.graph.channel_runs import OPEN, Run, reshape_runs
from autocompress.graph.channel_tracker import (
    OPEN_SIZE,
    POSITIONS,
    Axis,
    ChannelTracker,
    Ids,
    NotFollowedError,
    constant,
    sizes,
    title,
)


def positions(tracker: ChannelTracker, node: ir.Node, axes: Sequence[Axis]) -> list[Axis]:
    """Axes that a node takes for positions; channels that lie there, behind a Transpose or a Reshape, stay."""
    for axis in axes:
        tracker.block(axis, f"holds positions for {title(node)}")
    return [POSITIONS] * len(axes)


def transpose(tracker: ChannelTracker, node: ir.Node) -> None:
    """Transpose permutes axes."""
    source = tracker.axes(node.inputs[0])
    order = node.attributes.get_ints("perm", tuple(reversed(range(len(source)))))
    tracker.set_axes(node.outputs[0], [source[axis] for axis in order])


def unsqueeze(tracker: ChannelTracker, node: ir.Node) -> None:
    """Unsqueeze adds axes of one entry."""
    axes = list(tracker.axes(node.inputs[0]))
    rank = len(sizes(node.outputs[0]))
    for axis in sorted(index % rank for index in _integers(node, 1)):
        axes.insert(axis, POSITIONS)
    tracker.set_axes(node.outputs[0], axes)


def squeeze(tracker: ChannelTracker, node: ir.Node) -> None:
    """Squeeze with given axes; without, it would take pruned axes away too."""
    source = tracker.axes(node.inputs[0])
    if len(node.inputs) < 2 or node.inputs[1] is None:
        raise NotFollowedError("does not say which axes it removes")
    gone = {index % len(source) for index in _integers(node, 1)}
    tracker.set_axes(node.outputs[0], [axis for index, axis in enumerate(source) if index not in gone])


def concat(tracker: ChannelTracker, node: ir.Node) -> None:
    """Concat strings ids together on its axis and couples all others."""
    values = list(node.inputs)
    sources = [tracker.axes(value) for value in values]
    along = node.attributes.get_int("axis", 0) % len(sources[0])
    result: list[Axis] = []
    for axis in range(len(sources[0])):
        met = [source[axis] for source in sources]
        if axis != along:
            result.append(tracker.couple_all(met, node))
        elif all(isinstance(part, str) for part in met):
            result.append(met[0])
        else:
            parts = [_as_ids(tracker, part, sizes(v)[axis]) for part, v in zip(met, values, strict=True)]
            result.append(np.concatenate(parts))
    tracker.set_axes(node.outputs[0], result)


def split(tracker: ChannelTracker, node: ir.Node) -> None:
    """Split cuts ids at the sizes of its outputs."""
    source = tracker.axes(node.inputs[0])
    along = node.attributes.get_int("axis", 0) % len(source)
    ids = source[along]
    start = 0
    for output in node.outputs:
        part: Axis = ids
        if not isinstance(ids, str):
            size = sizes(output)[along]
            if size is None:
                raise NotFollowedError("has outputs of open size")
            part = ids[start : start + size]
            start += size
        tracker.set_axes(output, (*source[:along], part, *source[along + 1 :]))


def pad(tracker: ChannelTracker, node: ir.Node) -> None:
    """Pad with a constant adds entries that stay; any other pad of an axis with channels is not followed."""
    source = tracker.axes(node.inputs[0])
    amounts = _integers(node, 1)
    given = _integers(node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else range(len(source))
    padded = [axis % len(source) for axis in given]
    result = list(source)
    for position, axis in enumerate(padded):
        before, after = amounts[position], amounts[position + len(padded)]
        ids = source[axis]
        if isinstance(ids, str) or before == after == 0:
            continue
        if min(before, after) < 0 or node.attributes.get_string("mode", "constant") != "constant":
            raise NotFollowedError("crops or mirrors channels")
        reason = f"is padded by {title(node)}"
        result[axis] = np.concatenate([tracker.fixed_ids(before, reason), ids, tracker.fixed_ids(after, reason)])
    tracker.set_axes(node.outputs[0], result)


def resize(tracker: ChannelTracker, node: ir.Node) -> None:
    """Resize leaves axes alone that keep their size."""
    source = tracker.axes(node.inputs[0])
    named = node.attributes.get_ints("axes", tuple(range(len(source))))
    touched = {axis % len(source) for axis in named}
    _kept_sizes(tracker, node, source, touched)
    if any(isinstance(source[axis], np.ndarray) and _many(source[axis]) for axis in touched):
        constant(node, 3)  # sizes that name channels have to be known, for pruning writes them anew


def slice_(tracker: ChannelTracker, node: ir.Node) -> None:
    """Slice hands on the channels of its range; only whole ranges can be written anew, so steps are not followed."""
    source = tracker.axes(node.inputs[0])
    result = list(source)
    for axis, start, end, step in slice_ranges(node, len(source)):
        ids = source[axis]
        if isinstance(ids, str):
            continue
        if step < 0:
            raise NotFollowedError("runs backwards")
        taken = range(*slice(start, end, step).indices(ids.size))
        if step != 1 or not taken:
            tracker.block(ids, f"is changed by {title(node)}")
            result[axis] = f"is changed by {title(node)}"
        elif len(taken) != ids.size:
            result[axis] = ids[taken.start : taken.stop]
    tracker.set_axes(node.outputs[0], result)


def slice_ranges(node: ir.Node, rank: int) -> list[tuple[int, int, int, int]]:
    """Axis, start, end and step of each axis that a Slice names.

    Raises:
        NotFollowedError: they are computed at run time.
    """
    starts, ends = _integers(node, 1), _integers(node, 2)
    axes = _integers(node, 3) if len(node.inputs) > 3 and node.inputs[3] is not None else list(range(len(starts)))
    steps = _integers(node, 4) if len(node.inputs) > 4 and node.inputs[4] is not None else [1] * len(starts)
    return [(axis % rank, *rest) for axis, *rest in zip(axes, starts, ends, steps, strict=True)]  # type: ignore[misc]


def tile(tracker: ChannelTracker, node: ir.Node) -> None:
    """Tile leaves axes alone that it does not repeat."""
    source = tracker.axes(node.inputs[0])
    _kept_sizes(tracker, node, source, {axis for axis, times in enumerate(_integers(node, 1)) if times != 1})


def _kept_sizes(tracker: ChannelTracker, node: ir.Node, source: Sequence[Axis], touched: set[int]) -> None:
    """Hand axes on; those that are touched and change their size must not hold channels."""
    before, after = sizes(node.inputs[0]), sizes(node.outputs[0])
    result = list(source)
    for axis in touched:
        if before[axis] is None or before[axis] != after[axis]:
            reason = f"is changed by {title(node)}"
            tracker.block(source[axis], reason)
            result[axis] = reason
    tracker.set_axes(node.outputs[0], result)


def gather(tracker: ChannelTracker, node: ir.Node) -> None:
    """Gather picks along one axis, which stays whole; the others go on."""
    source = tracker.axes(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(source)
    indices = tracker.axes(node.inputs[1])
    reason = f"is picked from by {title(node)}"
    for blocked in (source[axis], *indices):
        tracker.block(blocked, reason)
    tracker.set_axes(node.outputs[0], (*source[:axis], *[reason] * len(indices), *source[axis + 1 :]))
    table = node.inputs[0]
    if axis == 0 and len(source) == 2 and table is not None and not isinstance(source[1], str) and _is_table(table):
        # An embedding makes its width as a linear layer on one-hot vectors would.
        tracker.set_role(table, 1, "out")
        tracker.producers.append((node, source[1]))


def _is_table(value: ir.Value) -> bool:
    tensor = value.const_value
    return value.is_initializer() and tensor is not None and tensor.dtype.is_floating_point()


def expand(tracker: ChannelTracker, node: ir.Node) -> None:
    """Expand repeats axes of one entry; the others go on.

    A target that is the shape of another value follows what that value loses: the axes are coupled to its axes.
    """
    source = tracker.axes(node.inputs[0])
    rank = len(sizes(node.outputs[0]))
    target = node.inputs[1]
    maker = target.producer() if target is not None else None
    if maker is not None and maker.op_type == "Shape" and not maker.attributes.keys() & {"start", "end"}:
        model = tracker.axes(maker.inputs[0])
        if len(model) != rank or len(source) > rank or sizes(maker.inputs[0]) != sizes(node.outputs[0]):
            raise NotFollowedError("repeats its input to a computed shape")
        result = list(model)
        for back, (size, axis) in enumerate(zip(reversed(sizes(node.inputs[0])), reversed(source), strict=True), 1):
            if size != 1:
                result[-back] = tracker.couple(axis, model[-back], node)
        tracker.set_axes(node.outputs[0], result)
        return
    if any(map(_many, source)):
        constant(node, 1)
    kept = [axis if _many(axis) else POSITIONS for axis in source]
    tracker.set_axes(node.outputs[0], [POSITIONS] * (rank - len(source)) + kept)


def shape(tracker: ChannelTracker, node: ir.Node) -> None:
    """Shape may be read for sizes that pruning leaves alone."""
    source = tracker.axes(node.inputs[0])
    start, end, _ = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(source))).indices(
        len(source)
    )
    numbers = np.arange(start, end)
    result = node.outputs[0]
    read = set(numbers.tolist()) if result.is_graph_output() else _read_from(result, numbers)
    for axis in read:
        tracker.block(source[axis], f"has its size read by {title(node)}")
    tracker.set_axes(result, [POSITIONS])


def _read_from(value: ir.Value, numbers: np.ndarray) -> set[int]:
    """Which of the numbered entries of a vector its readers pick; all of them where that cannot be told."""
    read: set[int] = set()
    for node, position in value.uses():
        try:
            if node.op_type == "Gather" and position == 0:
                picked = numbers[np.asarray(_integers(node, 1))]
            elif node.op_type == "Slice" and position == 0:
                step = _integers(node, 4)[0] if len(node.inputs) > 4 else 1
                picked = numbers[_integers(node, 1)[0] : _integers(node, 2)[0] : step]
            elif node.op_type == "Expand" and position == 1:
                picked = numbers[:0]  # the rule of Expand couples its result to the value, or blocks that
            else:
                picked = numbers
        except (NotFollowedError, IndexError):
            picked = numbers
        read.update(picked.tolist())
    return read


def depth_to_space(tracker: ChannelTracker, node: ir.Node) -> None:
    """DepthToSpace: the channels that make one channel's block of positions leave together."""
    batch, ids, *rest = tracker.axes(node.inputs[0])
    if not isinstance(ids, str):
        block = node.attributes.get_int("blocksize", 1) ** 2
        crd = node.attributes.get_string("mode", "DCR") == "CRD"
        rows = ids.reshape(-1, block).T if crd else ids.reshape(block, -1)
        tracker.couple(rows[1:], np.broadcast_to(rows[:1], rows[1:].shape), node)
        ids = rows[0]
    tracker.set_axes(node.outputs[0], (batch, ids, *positions(tracker, node, rest)))


def space_to_depth(tracker: ChannelTracker, node: ir.Node) -> None:
    """SpaceToDepth repeats the channels once for each position of a block."""
    batch, ids, *rest = tracker.axes(node.inputs[0])
    if not isinstance(ids, str):
        ids = np.tile(ids, node.attributes.get_int("blocksize", 1) ** 2)
    tracker.set_axes(node.outputs[0], (batch, ids, *positions(tracker, node, rest)))


def reshape(tracker: ChannelTracker, node: ir.Node) -> None:
    """Reshape and Flatten, run by run of axes that hold the same entries before and after."""
    source = tracker.axes(node.inputs[0])
    if node.op_type == "Reshape" and any(map(_many, source)):
        constant(node, 1)
    result: list[Axis] = []
    for run in reshape_runs(node):
        axes = source[run.before.start : run.before.stop]
        if run.same:
            result.extend(axes)
        else:
            result.extend(_reshaped(tracker, node, axes, run))
    tracker.set_axes(node.outputs[0], result)


def _reshaped(tracker: ChannelTracker, node: ir.Node, axes: Sequence[Axis], run: Run) -> list[Axis]:
    """Axes of one run: entries are spread out over the whole run, then gathered on one axis of the result."""
    tracked = [index for index, axis in enumerate(axes) if _many(axis)]
    if not tracked:
        reason = next((axis for axis in axes if isinstance(axis, str)), POSITIONS)
        return [reason] * len(run.after)
    if len(tracked) > 1:
        raise NotFollowedError("merges two axes of channels")
    if run.old_sizes is None or run.new_sizes is None:
        raise NotFollowedError("has sizes that do not agree")
    before, after, first = run.old_sizes, run.new_sizes, run.after.start
    if any(size >= OPEN[0] for size in before):
        raise NotFollowedError("merges channels with an axis of open size")
    ids = axes[tracked[0]]
    assert not isinstance(ids, str)
    spread = np.broadcast_to(ids.reshape([-1 if i == tracked[0] else 1 for i in range(len(axes))]), before)
    cube: Ids = spread.reshape(after)
    varying = [axis for axis in range(cube.ndim) if (cube != cube.take([0], axis)).any()]
    chosen = best_axis(node.outputs[0], [first + axis for axis in varying]) - first
    line = cube[tuple(slice(None) if axis == chosen else 0 for axis in range(cube.ndim))]
    if len(varying) > 1:
        shape = [-1 if axis == chosen else 1 for axis in range(cube.ndim)]
        tracker.couple(cube, np.broadcast_to(line.reshape(shape), cube.shape), node)
    return [line if axis == chosen else POSITIONS for axis in range(cube.ndim)]


def _many(axis: Axis) -> bool:
    """Whether an axis holds several channels; one that has it for itself can never leave."""
    return not isinstance(axis, str) and axis.size > 1 and bool((axis != axis[0]).any())


def _as_ids(tracker: ChannelTracker, axis: Axis, size: int | None) -> Ids:
    if not isinstance(axis, str):
        return axis
    if size is None:
        raise NotFollowedError(f"joins channels with an axis that {OPEN_SIZE}")
    return tracker.fixed_ids(size, axis)


def _integers(node: ir.Node, position: int) -> list[int]:
    value = constant(node, position)
    if value is None:
        raise NotFollowedError("lacks an input")
    return [int(number) for number in value.ravel().tolist()]
