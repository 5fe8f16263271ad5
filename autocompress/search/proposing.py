"""Who proposes what a search tries after the recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from autocompress.core.objective import Constraint, Objective
from autocompress.core.protocols import Graph, TrialStore
from autocompress.core.space import SearchSpace
from autocompress.search.effect_priors import Sensitivities
from autocompress.search.estimates import Estimate
from autocompress.search.frontier import Frontier
from autocompress.search.promotion import Promotion
from autocompress.search.recipes import anchor
from autocompress.search.samplers import make_sampler
from autocompress.search.tuner import Proposer

#: Samplers that nothing takes turns with: what the others must beat.
_ALONE = frozenset({"random"})


def proposer_of(
    sampler: str,
    *,
    space: SearchSpace,
    graph: Graph,
    estimates: Mapping[str, Estimate],
    sensitivities: Sensitivities,
    store: TrialStore,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
    seconds_left: Callable[[], float | None] = lambda: None,
) -> Proposer:
    """A sampler in turn with changed points of the front, and longer training for what promises most.

    Args:
        sampler: its name; ``random`` proposes all but the training alone.
        space: to choose from.
        graph: what is compressed.
        estimates: metric other than quality to a function from plans to rough costs.
        sensitivities: choice name to ``str(option)`` to KL of the outputs, one changed at a time.
        store: read at each proposal.
        objectives: quality first.
        constraints: of the search.
        seed: with the trials in the store it decides every proposal.
        seconds_left: for trials; None without a limit.

    Raises:
        UnknownNameError: no such sampler.
    """
    inner: Proposer = make_sampler(sampler, space, store, objectives, constraints, seed=seed)
    if sampler not in _ALONE:
        inner = Frontier(
            inner,
            space=space,
            estimates=estimates,
            reference=anchor(space, graph).assignment,
            sensitivities=sensitivities,
            store=store,
            objectives=objectives,
            constraints=constraints,
            seed=seed,
        )
    return Promotion(
        inner, space=space, store=store, objectives=objectives, constraints=constraints, seconds_left=seconds_left
    )
