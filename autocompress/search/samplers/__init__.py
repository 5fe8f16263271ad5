"""Samplers by name; each is one of Optuna's over the trials that the store holds."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from autocompress.core.errors import UnknownNameError
from autocompress.core.objective import Constraint, Objective
from autocompress.core.protocols import TrialStore
from autocompress.core.space import SearchSpace

if TYPE_CHECKING:
    from autocompress.search.samplers.study_sampler import StudySampler

#: Name to what it is good for; the module of the same name holds its ``build``.
SAMPLERS: dict[str, str] = {
    "tpe": "tree-structured Parzen estimator over all choices together; the default",
    "nsga2": "genetic search from the seeds; cheap and steady",
    "gp": "Gaussian processes with expected hypervolume improvement; few, dear trials",
    "random": "uniform over the space; what the others must beat",
}
DEFAULT_SAMPLER = "tpe"


def make_sampler(
    name: str,
    space: SearchSpace,
    store: TrialStore,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
) -> StudySampler:
    """A sampler that proposes candidates of ``space`` from the trials in ``store``.

    Args:
        name: one of :data:`SAMPLERS`.
        space: to choose from.
        store: read at each proposal; whoever evaluates appends to it.
        objectives: in the order of the store.
        constraints: trials that break one guide the sampler away.
        seed: with the trials in the store it decides every proposal.

    Raises:
        UnknownNameError: no such sampler.
    """
    check_sampler(name)
    from autocompress.search.samplers.study_sampler import StudySampler

    return StudySampler(
        name=name,
        build=import_module(f"{__name__}.{name}").build,
        space=space,
        store=store,
        objectives=objectives,
        constraints=constraints,
        seed=seed,
    )


def check_sampler(name: str) -> None:
    """Raise :class:`UnknownNameError` where no sampler is called that."""
    if name not in SAMPLERS:
        raise UnknownNameError("sampler", name, SAMPLERS)
