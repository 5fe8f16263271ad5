"""The one interface to every importance: a graph and its groups in, one score a unit out, higher is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from autocompress.compress.importance.activations import activation_scores
from autocompress.compress.importance.gradients import fisher_scores, taylor_scores
from autocompress.compress.importance.members import Score, Scores, normalized, of_role
from autocompress.compress.importance.weights import (
    batch_norm_factors,
    batch_norm_scores,
    geometric_median_scores,
    norm_scores,
)
from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.layer import PruneGroup
from autocompress.core.plan import AGGREGATIONS, IMPORTANCES
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What a method scores, and with what."""

    graph: ModelGraph
    groups: tuple[PruneGroup, ...]
    method: str
    dataset: Dataset | None
    rng: np.random.Generator
    samples: int
    aggregation: str | None

    def data(self) -> Dataset:
        if self.dataset is None:
            raise PlanError(f"Importance {self.method!r} needs data: give --data, or use 'l1' or 'l2'.")
        return self.dataset


def channel_scores(
    graph: ModelGraph,
    groups: Iterable[PruneGroup],
    method: str,
    *,
    dataset: Dataset | None = None,
    rng: np.random.Generator | None = None,
    samples: int = 256,
    aggregation: str | None = None,
) -> Scores:
    """Score the units of each group.

    ========================  ==========================================================================================
    ``l1``, ``l2``            norms of the filters that make a channel (Li et al. 2017)
    ``taylor``                squared first-order change of the loss (Molchanov et al. 2019); needs data
    ``fisher``                second-order change of the loss, Fisher diagonal (Theis et al. 2018); needs data
    ``bn_scale``              factors of BatchNormalization (Liu et al. 2017); ``l2`` for groups that have none
    ``activation_mean``       mean magnitude of what layers read of a channel; needs data
    ``apoz``                  how often it is not zero (Hu et al. 2016); needs data; ``l2`` for groups without zeros
    ``geometric_median``      distance of a filter to all others (He et al. 2019)
    ``lottery``               magnitude, as ``l1``; a compressor rewinds what is kept (Frankle & Carbin 2019)
    ``mixed``                 ``taylor`` for convolutions with BatchNormalization, ``geometric_median`` for those
                              without, ``l2`` for other layers; needs data for the first
    ``random``                uniform
    ========================  ==========================================================================================

    Args:
        graph: that the groups are of.
        groups: to score; blocked ones are passed over.
        method: one of :data:`~autocompress.core.plan.IMPORTANCES`.
        dataset: for the methods that need data; labels are used where they fit the output, and not needed.
        rng: for ``random``, and for which samples are read; a fixed seed where None.
        samples: how many samples are read, at most.
        aggregation: ``sum``, ``mean`` or ``max`` over the members of a group; each method's own way where None. Every
            unit of a group has equally many members, so ``sum`` and ``mean`` rank alike.

    Returns:
        Group name to ``(channels,)`` scores, scaled to a mean of one within each group.

    Raises:
        UnknownNameError: an unknown method or aggregation.
        PlanError: a method that needs data, without; or ``bn_scale`` where no group has BatchNormalization.
    """
    if method not in IMPORTANCES:
        raise UnknownNameError("importance", method, IMPORTANCES)
    if aggregation is not None and aggregation not in AGGREGATIONS:
        raise UnknownNameError("aggregation", aggregation, AGGREGATIONS)
    request = _Request(
        graph=graph,
        groups=tuple(group for group in groups if group.prunable),
        method=method,
        dataset=dataset,
        rng=rng if rng is not None else np.random.default_rng(0),
        samples=samples,
        aggregation=aggregation,
    )
    return {name: normalized(score) for name, score in _METHODS[method](request).items()}


def _norms(request: _Request, order: int) -> Scores:
    return {group.name: norm_scores(request.graph, group, order, request.aggregation) for group in request.groups}


def _l1(request: _Request) -> Scores:
    return _norms(request, 1)


def _l2(request: _Request) -> Scores:
    return _norms(request, 2)


#: Methods that run or differentiate the graph in torch.
IN_TORCH = frozenset({"taylor", "fisher", "activation_mean", "apoz", "mixed"})


def _taylor(request: _Request) -> Scores:
    return taylor_scores(
        request.graph,
        request.groups,
        request.data(),
        rng=request.rng,
        samples=request.samples,
        aggregation=request.aggregation,
    )


def _fisher(request: _Request) -> Scores:
    return fisher_scores(
        request.graph,
        request.groups,
        request.data(),
        rng=request.rng,
        samples=request.samples,
        aggregation=request.aggregation,
    )


def _bn_scale(request: _Request) -> Scores:
    found = {group.name: batch_norm_scores(request.graph, group, request.aggregation) for group in request.groups}
    if request.groups and all(score is None for score in found.values()):
        raise PlanError(
            "Importance 'bn_scale' needs BatchNormalization, but no channels that can be pruned have one: "
            "use 'l2' or 'mixed'."
        )
    return {group.name: _or_l2(found[group.name], request, group) for group in request.groups}


def _activation_mean(request: _Request) -> Scores:
    return _activations(request, zeros=False)


def _apoz(request: _Request) -> Scores:
    # Where nothing is ever zero, as behind Gelu, all channels would score the same.
    found = _activations(request, zeros=True)
    flat = {name for name, score in found.items() if (score == score[0]).all()}
    return {**found, **{g.name: _or_l2(None, request, g) for g in request.groups if g.name in flat}}


def _activations(request: _Request, *, zeros: bool) -> Scores:
    found = activation_scores(
        request.graph,
        request.groups,
        request.data(),
        zeros=zeros,
        rng=request.rng,
        samples=request.samples,
        aggregation=request.aggregation,
    )
    return {group.name: _or_l2(found.get(group.name), request, group) for group in request.groups}


def _geometric_median(request: _Request) -> Scores:
    return {group.name: geometric_median_scores(request.graph, group, request.aggregation) for group in request.groups}


def _mixed(request: _Request) -> Scores:
    kinds = {layer.weight: layer.op_type for layer in request.graph.layers()}
    factors = batch_norm_factors(request.graph)
    by_method: dict[str, list[PruneGroup]] = {}
    for group in request.groups:
        makers = {kinds.get(member.initializer, "") for member in of_role(group, "out")}
        normed = any(member.initializer in factors for member in of_role(group, "scale"))
        convolves = makers <= {"Conv", "ConvTranspose"}
        method = ("taylor" if normed else "geometric_median") if convolves else "l2"
        by_method.setdefault(method, []).append(group)
    scores: Scores = {}
    for method, groups in by_method.items():
        scores.update(_METHODS[method](replace(request, groups=tuple(groups))))
    return scores


def _random(request: _Request) -> Scores:
    return {group.name: request.rng.random(group.channels) for group in request.groups}


def _or_l2(score: Score | None, request: _Request, group: PruneGroup) -> Score:
    """The score, or norms where a method says nothing of a group; each group is scaled to a mean of one anyway."""
    return norm_scores(request.graph, group, 2, request.aggregation) if score is None else score


_METHODS: dict[str, Callable[[_Request], Scores]] = {
    "l1": _l1,
    "l2": _l2,
    "taylor": _taylor,
    "fisher": _fisher,
    "bn_scale": _bn_scale,
    "activation_mean": _activation_mean,
    "apoz": _apoz,
    "geometric_median": _geometric_median,
    "lottery": _l1,
    "mixed": _mixed,
    "random": _random,
}
