"""Structured pruning: choose channels, and slice them out of a graph exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.derived import DerivedTensor
from autocompress.core.errors import PlanError, nearest
from autocompress.core.layer import PruneGroup, kept_channels
from autocompress.core.plan import DEFAULT, CompressionPlan
from autocompress.graph.channel_layout import slice_ranges
from autocompress.graph.channels import ChannelAnalysis, analyse_channels
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.tensors import fixed_shape, shape_of_tensor, tensor_of

Keep = Mapping[str, NDArray[np.intp]]


def select_kept(
    groups: Iterable[PruneGroup], scores: Mapping[str, NDArray[np.floating[Any]]], plan: CompressionPlan
) -> dict[str, NDArray[np.intp]]:
    """Choose the units that stay: the ones with the highest scores, as many as the plan's ratios leave.

    A higher ratio keeps a subset of what a lower one keeps.

    Args:
        groups: of the graph.
        scores: group name to ``(channels,)``, higher is kept; needed for the groups that lose something.
        plan: its ratios; the one of ``"*"`` passes over blocked groups.

    Returns:
        Group name to sorted kept units, for the groups that lose something.

    Raises:
        PlanError: a ratio for a group that does not exist or is blocked, or scores that are missing or misshapen.
    """
    known = {group.name: group for group in groups}
    for name, ratio in plan.prune.items():
        if name == DEFAULT:
            continue
        if name not in known:
            raise _unknown(name, known)
        if ratio > 0:
            _check_prunable(known[name])
    kept: dict[str, NDArray[np.intp]] = {}
    for group in known.values():
        if not group.prunable:
            continue
        count = kept_channels(group.channels, plan.ratio(group.name))
        if count < group.channels:
            score = scores.get(group.name)
            if score is None or score.shape != (group.channels,):
                got = "none" if score is None else f"shape {score.shape}"
                wanted = f"a score for each of {group.channels} units"
                raise PlanError(f"Group {group.name!r} needs {wanted}, but got {got}.")
            kept[group.name] = np.sort(np.argsort(-score, kind="stable")[:count])
    return kept


def prune(graph: ModelGraph, keep: Keep) -> ModelGraph:
    """Remove channels from a graph.

    Exact: the result computes what ``graph`` computes with the members of role ``in`` zero at the removed entries.
    Weights that lose nothing share their memory with those of ``graph``.

    Args:
        graph: stays as it is.
        keep: group name to the units that stay, sorted; groups that are not named stay whole.

    Raises:
        PlanError: a group that does not exist or is blocked, or units that are out of range, unsorted or none.
    """
    analysis = analyse_channels(graph)
    removed = _removed_units(analysis, keep)
    copy = graph.clone()
    if not removed.any():
        return copy
    model = copy.model.graph
    cut = _cut_axes(analysis, removed)
    for name, value in model.initializers.items():
        if name in cut and value.const_value is not None:
            value.const_value = _sliced(value.const_value, graph.initializers[name], cut[name])
            value.shape = shape_of_tensor(value.const_value)
    for node in model:
        changed = False
        for value in node.outputs:
            axes = cut.get(str(value.name))
            if axes is not None and value.shape is not None:
                value.shape = _narrowed(value.shape, axes)
                changed = True
        edit = _EDITS.get(node.op_type)
        if changed and edit is not None:
            edit(model, node)
        source = str(node.inputs[0].name) if node.inputs and node.inputs[0] is not None else ""
        if node.op_type == "Slice" and source in cut:
            _edit_slice(model, node, cut[source], analysis.axes[source])
    return copy


def kept_entries(graph: ModelGraph, keep: Keep) -> dict[str, dict[int, list[int]]]:
    """What :func:`prune` keeps of the initializers it slices.

    Returns:
        Initializer name to axis to the sorted kept indices, both as in ``graph``; only axes that lose entries.

    Raises:
        PlanError: as :func:`prune`.
    """
    analysis = analyse_channels(graph)
    cut = _cut_axes(analysis, _removed_units(analysis, keep))
    return {
        name: {axis: indices.tolist() for axis, indices in axes.items()}
        for name, axes in cut.items()
        if name in graph.initializers
    }


def kept_values(graph: ModelGraph, keep: Keep) -> dict[str, dict[int, NDArray[np.intp]]]:
    """Likewise of the values between operators: name to axis to the sorted entries that stay.

    Raises:
        PlanError: as :func:`prune`.
    """
    analysis = analyse_channels(graph)
    cut = _cut_axes(analysis, _removed_units(analysis, keep))
    return {name: axes for name, axes in cut.items() if name not in graph.initializers}


def _removed_units(analysis: ChannelAnalysis, keep: Keep) -> NDArray[np.bool_]:
    """``(unit_count,)``: which units leave."""
    known = {group.name: group for group in analysis.groups}
    removed = np.zeros(analysis.unit_count, np.bool_)
    for name, kept in keep.items():
        if name not in known:
            raise _unknown(name, known)
        group = known[name]
        _check_prunable(group)
        kept = np.asarray(kept)
        if kept.ndim != 1 or kept.size == 0 or kept.dtype.kind not in "iu":
            raise PlanError(f"Group {name!r} must keep a list of at least one unit, but got {kept.tolist()!r}.")
        if kept[0] < 0 or kept[-1] >= group.channels or (np.diff(kept.astype(np.int64)) <= 0).any():
            raise PlanError(
                f"The kept units of group {name!r} must be sorted, each once, within 0 to {group.channels - 1}, "
                f"but got {np.array2string(kept, threshold=8, separator=', ')}."
            )
        units = analysis.group_units[name]
        removed[units] = True
        removed[units[kept]] = False
    return removed


def _cut_axes(analysis: ChannelAnalysis, removed: NDArray[np.bool_]) -> dict[str, dict[int, NDArray[np.intp]]]:
    """Value or initializer name to axis to kept indices, for the axes that lose entries."""
    kept_of: dict[int, NDArray[np.intp] | None] = {}
    cut: dict[str, dict[int, NDArray[np.intp]]] = {}
    for name, axes in analysis.axes.items():
        for axis, units in axes.items():
            if id(units) not in kept_of:
                stays = ~removed[units]
                kept_of[id(units)] = None if stays.all() else np.flatnonzero(stays)
            kept = kept_of[id(units)]
            if kept is not None:
                cut.setdefault(name, {})[axis] = kept
    return cut


def _sliced(tensor: ir.TensorProtocol, array: NDArray[Any], axes: Mapping[int, NDArray[np.intp]]) -> ir.TensorProtocol:
    """A tensor that keeps the given entries of each axis; a large one is not computed before it is read."""
    if array.ndim > 1:
        return DerivedTensor(array, axes, dtype=tensor.dtype, name=tensor.name)
    return tensor_of(array.take(axes[0], 0), tensor.name, dtype=tensor.dtype)


def _narrowed(shape: ir.Shape, axes: Mapping[int, NDArray[np.intp]]) -> ir.Shape:
    dims = list(shape.dims)
    for axis, indices in axes.items():
        dims[axis] = len(indices)
    known = tuple(size for size in dims if isinstance(size, int))
    return fixed_shape(known) if len(known) == len(dims) else ir.Shape(dims)


def _edit_groups(graph: ir.Graph, node: ir.Node) -> None:
    """A depthwise convolution has as many groups as channels; any other keeps its groups, and channels for each."""
    groups = node.attributes.get_int("group", 1)
    channels = _size(node.inputs[0], 1, default=groups)
    if channels < groups:
        node.attributes["group"] = ir.AttrInt64("group", channels)


def _edit_reshape(graph: ir.Graph, node: ir.Node) -> None:
    """Write new sizes into the target; -1 and most 0 say the right thing already."""
    target = _integers(node, 1)
    wanted = list(target)
    for axis, size in enumerate(target):
        new = _size(node.outputs[0], axis, default=-1)
        copied = size == 0 and new == _size(node.inputs[0], axis, default=-1)
        if new > 0 and size != -1 and not copied:
            wanted[axis] = new
    _set_integers(graph, node, 1, wanted)


def _edit_expand(graph: ir.Graph, node: ir.Node) -> None:
    """Write new sizes into the target; 1 leaves an axis as it is, and a computed target is computed anew."""
    if node.inputs[1] is None or not node.inputs[1].is_initializer():
        return
    target = _integers(node, 1)
    back = len(target)
    rank = len(node.outputs[0].shape or ())
    sizes = [_size(node.outputs[0], rank - back + axis, default=size) for axis, size in enumerate(target)]
    _set_integers(graph, node, 1, [size if old != 1 else 1 for old, size in zip(target, sizes, strict=True)])


def _edit_split(graph: ir.Graph, node: ir.Node) -> None:
    """Write the parts' sizes out: they need not be equal any more."""
    axis = node.attributes.get_int("axis", 0) % len(node.outputs[0].shape or (0,))
    node.attributes.pop("num_outputs", None)
    _set_integers(graph, node, 1, [_size(output, axis) for output in node.outputs])


def _edit_slice(
    graph: ir.Graph, node: ir.Node, kept: Mapping[int, NDArray[np.intp]], sizes: Mapping[int, NDArray[np.intp]]
) -> None:
    """Write the range anew on axes that lost entries, before it or within; ``sizes`` has one entry for each old one."""
    starts, ends = _integers(node, 1), _integers(node, 2)
    for position, (axis, start, end, _) in enumerate(slice_ranges(node, len(node.outputs[0].shape or (0,)))):
        if axis in kept:
            taken = range(*slice(start, end).indices(len(sizes[axis])))
            starts[position], ends[position] = np.searchsorted(kept[axis], [taken.start, taken.stop]).tolist()
    _set_integers(graph, node, 1, starts)
    _set_integers(graph, node, 2, ends)


def _edit_resize(graph: ir.Graph, node: ir.Node) -> None:
    """Write new sizes where the node names sizes, not scales."""
    if len(node.inputs) < 4 or node.inputs[3] is None or not node.inputs[3].name:
        return
    target = _integers(node, 3)
    axes = node.attributes.get_ints("axes", tuple(range(len(target))))
    rank = len(node.outputs[0].shape or (0,))
    sizes = [_size(node.outputs[0], axis % rank, default=old) for axis, old in zip(axes, target, strict=True)]
    _set_integers(graph, node, 3, sizes)


_EDITS: dict[str, Callable[[ir.Graph, ir.Node], None]] = {
    "Conv": _edit_groups,
    "ConvTranspose": _edit_groups,
    "Expand": _edit_expand,
    "Reshape": _edit_reshape,
    "Resize": _edit_resize,
    "Split": _edit_split,
}


def _size(value: ir.Value | None, axis: int, default: int | None = None) -> int:
    """Size of an axis, which analysis has made sure is known unless there is a default."""
    dim = value.shape[axis] if value is not None and value.shape is not None else None
    if isinstance(dim, int):
        return dim
    assert default is not None
    return default


def _integers(node: ir.Node, position: int) -> list[int]:
    value = node.inputs[position]
    assert value is not None
    assert value.const_value is not None
    return [int(number) for number in value.const_value.numpy().ravel().tolist()]


def _set_integers(graph: ir.Graph, node: ir.Node, position: int, numbers: list[int]) -> None:
    """Give a node integers of its own: others may share the constant it had."""
    old = node.inputs[position] if position < len(node.inputs) else None
    if old is not None and _integers(node, position) == numbers:
        return
    stem = name = f"{node.outputs[0].name}.{'split' if node.op_type == 'Split' else 'shape'}"
    count = 1
    while name in graph.initializers:
        count += 1
        name = f"{stem}.{count}"
    tensor = ir.tensor(np.array(numbers, np.int64), name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape([len(numbers)]), type=ir.TensorType(ir.DataType.INT64)
    )
    graph.register_initializer(value)
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)
    if old is not None and old.name and old.is_initializer() and not old.uses() and not old.is_graph_output():
        del graph.initializers[old.name]


def _check_prunable(group: PruneGroup) -> None:
    if group.blocked is not None:
        raise PlanError(f"Group {group.name!r} cannot be pruned: it {group.blocked}.")


def _unknown(name: str, known: Iterable[str]) -> PlanError:
    names = list(known)
    near = nearest(name, names)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(names[:12]) or 'none'}."
    return PlanError(f"Unknown prune group {name!r}; {hint}")
