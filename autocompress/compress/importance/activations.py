"""Importance read from what the network computes: how large a channel's values are, and how often they are zero."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.importance.members import Score, Scores, aggregate, of_role
from autocompress.compress.importance.sampling import drawn_batches, size_for
from autocompress.core.layer import PruneGroup
from autocompress.core.protocols import Dataset
from autocompress.graph.channels import ChannelAnalysis, analyse_channels
from autocompress.graph.layers import LAYER_OPERATORS
from autocompress.graph.model_graph import ModelGraph

#: Value name, and which of its axes holds channels.
_Place = tuple[str, int]


def activation_scores(
    graph: ModelGraph,
    groups: Iterable[PruneGroup],
    dataset: Dataset,
    *,
    zeros: bool,
    rng: np.random.Generator,
    samples: int = 256,
    aggregation: str | None = None,
) -> Scores:
    """Scores of the values that layers read from a group: behind the activation function, where there is one.

    Args:
        graph: that the groups are of.
        groups: to score.
        dataset: what the model will see; labels are not used.
        zeros: score the share of values other than zero, that is one minus the average percentage of zeros (Hu et al.
            2016, equation 1); else the mean magnitude (Molchanov et al. 2017, section 2.2, "activation").
        rng: draws samples.
        samples: how many to read, at most.
        aggregation: over the values that layers read; their mean where None.

    Returns:
        Group name to ``(channels,)`` raw scores; groups that no layer reads are left out.

    Raises:
        DataError: there is too little data.
    """
    analysis = analyse_channels(graph)
    places = {group.name: found for group in groups if (found := _places(graph, analysis, group))}
    wanted = sorted({place for found in places.values() for place in found})
    means = _means(graph, wanted, dataset, zeros=zeros, rng=rng, samples=samples) if wanted else {}
    scores: Scores = {}
    for name, found in places.items():
        units = analysis.group_units[name]
        by_place = [_by_unit(means[place], analysis.axes[place[0]][place[1]], units) for place in found]
        scores[name] = aggregate(by_place, aggregation or "mean")
    return scores


def _places(graph: ModelGraph, analysis: ChannelAnalysis, group: PruneGroup) -> list[_Place]:
    """Values that hold the group's channels where layers read them, else where layers write them."""
    units = analysis.group_units[group.name]
    read = _values(graph, {member.initializer for member in of_role(group, "in")}, written=False)
    written = _values(graph, {member.initializer for member in of_role(group, "out")}, written=True)
    for names in (read, written):
        found = [
            (name, axis)
            for name in names
            for axis, entries in analysis.axes.get(name, {}).items()
            if np.isin(units, entries).all()
        ]
        if found:
            return found
    return []


def _values(graph: ModelGraph, weights: set[str], *, written: bool) -> list[str]:
    """What the layers with these weights read or write, each once."""
    found: dict[str, None] = {}
    for node in graph.model.graph:
        if node.op_type not in LAYER_OPERATORS or not any(_name(value) in weights for value in node.inputs[:2]):
            continue
        sources = [value for value in node.inputs[:2] if _name(value) not in weights]
        found.update({_name(value): None for value in (node.outputs[:1] if written else sources)})
    return list(found)


def _name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def _means(
    graph: ModelGraph,
    places: list[_Place],
    dataset: Dataset,
    *,
    zeros: bool,
    rng: np.random.Generator,
    samples: int,
) -> dict[_Place, NDArray[np.float64]]:
    """Mean over samples and positions of each entry of the axes that hold channels."""
    import torch

    from autocompress.graph.executor import GraphModule

    names = list(dict.fromkeys(name for name, _ in places))
    copy = graph.clone()
    copy.model.graph.outputs.clear()
    values = copy.values
    copy.model.graph.outputs.extend(values[name] for name in names)
    module = GraphModule(ModelGraph(copy.model)).eval()
    totals: dict[_Place, NDArray[np.float64]] = {}
    counts: dict[_Place, int] = {}
    with torch.no_grad():
        for inputs, _ in drawn_batches(graph, dataset, rng, samples, size_for(graph, names)):
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
            found = dict(zip(names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
            for name, axis in places:
                tensor = found[name].movedim(axis, 0).flatten(1)
                measured = (tensor != 0) if zeros else tensor.abs()
                total = measured.sum(1, dtype=torch.float64).numpy()
                totals[name, axis] = totals.get((name, axis), 0) + total
                counts[name, axis] = counts.get((name, axis), 0) + tensor.shape[1]
    return {place: total / counts[place] for place, total in totals.items()}


def _by_unit(entries: NDArray[np.float64], unit_of: NDArray[np.intp], units: NDArray[np.intp]) -> Score:
    """``(channels,)`` means over the entries of each unit."""
    size = int(max(unit_of.max(), units.max())) + 1
    total, count = np.bincount(unit_of, entries, size), np.bincount(unit_of, minlength=size)
    score: Score = total[units] / count[units]
    return score
