"""Importance read from the weights that make a channel."""

from __future__ import annotations

import numpy as np

from autocompress.compress.importance.members import Score, aggregate, of_role, rows_by_unit, sum_by_unit
from autocompress.core.layer import PruneGroup
from autocompress.graph.model_graph import ModelGraph


def norm_scores(graph: ModelGraph, group: PruneGroup, order: int, aggregation: str | None = None) -> Score:
    """``(channels,)`` L1 or L2 norms of the filters that make a channel (Li et al. 2017).

    Args:
        graph: that the group is of.
        group: to score.
        order: 1 or 2.
        aggregation: over the layers that make the channels; their mean where None.
    """
    norms = []
    for member in of_role(group, "out"):
        array = np.abs(graph.initializers[member.initializer].astype(np.float32))
        total = sum_by_unit(array if order == 1 else array * array, member)
        norms.append(total if order == 1 else np.sqrt(total))
    return aggregate(norms, aggregation or "mean")


def geometric_median_scores(graph: ModelGraph, group: PruneGroup, aggregation: str | None = None) -> Score:
    """``(channels,)`` sums of each filter's distances to all others (He et al. 2019, FPGM, equation 4).

    The filter with the smallest sum is the nearest to the geometric median: the others can stand in for it.

    Args:
        graph: that the group is of.
        group: to score.
        aggregation: over the layers that make the channels; their mean where None.
    """
    sums = []
    for member in of_role(group, "out"):
        rows = rows_by_unit(graph.initializers[member.initializer], member).astype(np.float64)
        squares = np.square(rows).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * (rows @ rows.T), 0))
        np.fill_diagonal(distances, 0)
        sums.append(distances.sum(axis=1))
    return aggregate(sums, aggregation or "mean")


def batch_norm_scores(graph: ModelGraph, group: PruneGroup, aggregation: str | None = None) -> Score | None:
    """``(channels,)`` magnitudes of the factors of BatchNormalization (Liu et al. 2017, network slimming).

    Args:
        graph: that the group is of.
        group: to score.
        aggregation: over the group's BatchNormalizations; their mean where None.

    Returns:
        None where no BatchNormalization scales the group's channels.
    """
    known = batch_norm_factors(graph)
    factors = [member for member in of_role(group, "scale") if member.initializer in known]
    if not factors:
        return None
    scores = [sum_by_unit(np.abs(graph.initializers[member.initializer]), member) for member in factors]
    return aggregate(scores, aggregation or "mean")


def batch_norm_factors(graph: ModelGraph) -> set[str]:
    """Names of the initializers that BatchNormalization multiplies by."""
    nodes = (node for node in graph.model.graph if node.op_type == "BatchNormalization")
    return {str(node.inputs[1].name) for node in nodes if node.inputs[1] is not None}
