"""Which channels must be removed together: coupled (value, axis) entries, gathered into prune groups.

Every entry of an axis that holds channels has an id; operators couple ids
(:mod:`autocompress.graph.channel_rules`). What is coupled, directly or through others, leaves as one *unit*. Units that
appear in the same axes equally often form a *group*: a search decides once for all of them, and no axis can be emptied
while each group keeps one unit. This is the dependency graph of Fang et al. 2023 (DepGraph) taken down to single
entries, so that Concat, Split and Flatten need no special treatment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.core.layer import GroupMember, PruneGroup
from autocompress.graph.channel_rules import follow
from autocompress.graph.channel_tracker import OPEN_SIZE, ChannelTracker, Ids
from autocompress.graph.layers import layer_names

if TYPE_CHECKING:
    from autocompress.graph.model_graph import ModelGraph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelAnalysis:
    """Prune groups of a graph, and where each of their units appears.

    Args:
        groups: in topological order of the layers that name them.
        axes: value or initializer name to axis to ``(size,)`` units of its entries. Values that hold the same channels
            share one array.
        group_units: group name to ``(channels,)`` units, in the group's order.
        unit_count: how many units there are.
    """

    groups: tuple[PruneGroup, ...]
    axes: Mapping[str, Mapping[int, Ids]]
    group_units: Mapping[str, Ids]
    unit_count: int


_ANALYSES: WeakKeyDictionary[ModelGraph, ChannelAnalysis] = WeakKeyDictionary()


def prune_groups(graph: ModelGraph) -> tuple[PruneGroup, ...]:
    """Channels that must be pruned together, blocked groups too.

    Removing units of groups that are not blocked is exact: the pruned graph computes what the graph computes whose
    members of role ``in`` are zero at the removed entries.

    Returns:
        Groups in topological order; each is named by the first layer whose output channels it holds. Where one layer's
        channels form several groups, the later ones are called ``name:2``, ``name:3``, ….
    """
    return analyse_channels(graph).groups


def analyse_channels(graph: ModelGraph) -> ChannelAnalysis:
    """Find the groups of a graph; remembered as long as the graph lives."""
    known = _ANALYSES.get(graph)
    if known is None:
        known = _ANALYSES[graph] = _analyse(graph.model)
    return known


def _analyse(model: ir.Model) -> ChannelAnalysis:
    tracker = ChannelTracker()
    for value in model.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            reason = f"belongs to the model's input {value.name!r}"
            tracker.set_axes(value, [reason if isinstance(size, int) else OPEN_SIZE for size in value.shape])
    for node in model.graph:
        follow(tracker, node)
    tracked = list(tracker.tracked())
    outputs = set(model.graph.outputs)
    for value, _, ids in tracked:
        if value in outputs:
            tracker.block(ids, f"feeds the model's output {value.name!r}")
    unit_of, reasons = tracker.units()
    units: dict[int, Ids] = {}
    for _, _, ids in tracked:
        if id(ids) not in units:
            units[id(ids)] = unit_of[ids]
    axes: dict[str, dict[int, Ids]] = {}
    for value, axis, ids in tracked:
        axes.setdefault(str(value.name), {})[axis] = units[id(ids)]
    produced = [(node, unit_of[ids]) for node, ids in tracker.producers]
    count = int(unit_of.max()) + 1 if unit_of.size else 0
    named = _name_groups(_gather_units(produced, list(units.values()), reasons, count), model)
    members = _members(tracker, tracked, units, list(named.values()), count)
    groups = tuple(
        PruneGroup(name=name, channels=len(group), members=tuple(found), blocked=reasons.get(int(group[0])))
        for (name, (_, group)), found in zip(named.items(), members, strict=True)
    )
    return ChannelAnalysis(
        groups=groups, axes=axes, group_units={name: group for name, (_, group) in named.items()}, unit_count=count
    )


def _gather_units(
    produced: list[tuple[ir.Node, Ids]], columns: list[Ids], reasons: Mapping[int, str], count: int
) -> list[tuple[ir.Node, Ids]]:
    """Gather the units that layers produce into groups.

    Args:
        produced: layers in topological order with the units of their output channels.
        columns: the units of every axis.
        reasons: why blocked units are.
        count: how many units there are.

    Returns:
        Each group's first layer and its units, in the order in which layers produce them.
    """
    if not produced:
        return []
    everything = np.concatenate(columns)
    column = np.repeat(np.arange(len(columns)), [len(c) for c in columns])
    places, times = np.unique(everything * len(columns) + column, return_counts=True)
    bounds = np.searchsorted(places, np.arange(count + 1) * len(columns))
    where = places % len(columns)
    order, first = np.unique(np.concatenate([units for _, units in produced]), return_index=True)
    layer = np.repeat(np.arange(len(produced)), [len(units) for _, units in produced])
    gathered: dict[tuple[bytes, bytes, str | None], list[int]] = {}
    layer_of: dict[int, int] = {}
    for position in np.argsort(first).tolist():
        unit = int(order[position])
        span = slice(bounds[unit], bounds[unit + 1])
        gathered.setdefault((where[span].tobytes(), times[span].tobytes(), reasons.get(unit)), []).append(unit)
        layer_of[unit] = int(layer[first[position]])
    return [(produced[layer_of[units[0]]][0], np.array(units, np.intp)) for units in gathered.values()]


def _name_groups(groups: list[tuple[ir.Node, Ids]], model: ir.Model) -> dict[str, tuple[ir.Node, Ids]]:
    names = layer_names(model)
    named: dict[str, tuple[ir.Node, Ids]] = {}
    for node, units in groups:
        stem = name = names.get(str(node.name)) or _table_name(node) or str(node.name)
        part = 1
        while name in named:
            part += 1
            name = f"{stem}:{part}"
        named[name] = (node, units)
    return named


def _table_name(node: ir.Node) -> str | None:
    """Name of an embedding: that of its table, as a layer is named by its weight."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    name = str(table.name) if table is not None and table.is_initializer() else ""
    return name.removesuffix(".weight") if name and not name.startswith(("onnx::", "val_", "/")) else None


def _members(
    tracker: ChannelTracker,
    tracked: list[tuple[ir.Value, int, Ids]],
    units: Mapping[int, Ids],
    groups: list[tuple[ir.Node, Ids]],
    count: int,
) -> list[list[GroupMember]]:
    """For each group, the initializer axes that lose entries with it."""
    group_of = np.full(count, -1, np.intp)
    place_of = np.zeros(count, np.intp)
    for index, (_, group) in enumerate(groups):
        group_of[group] = index
        place_of[group] = np.arange(len(group))
    found: list[list[GroupMember]] = [[] for _ in groups]
    for value, axis, ids in tracked:
        if not value.is_initializer():
            continue
        entries = units[id(ids)]
        owner = group_of[entries]
        order = np.lexsort((place_of[entries], owner))
        order = order[np.searchsorted(owner[order], 0) :]
        owners, starts = np.unique(owner[order], return_index=True)
        for index, part in zip(owners.tolist(), np.split(order, starts[1:]) if len(owners) else [], strict=True):
            indices: NDArray[np.intp] = part.reshape(len(groups[index][1]), -1)
            found[index].append(
                GroupMember(initializer=str(value.name), axis=axis, indices=indices, role=tracker.role(value, axis))
            )
    return found
