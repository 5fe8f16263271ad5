"""Proposes candidates: an Optuna sampler over the store's trials, never a plan twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from autocompress.core.objective import Constraint, Objective
from autocompress.core.protocols import TrialStore
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Candidate
from autocompress.search.samplers.mirror import Mirror
from autocompress.store.optuna_store import quiet_optuna

#: Proposals of the sampler itself before its last one is changed by hand.
_ASKS = 4
#: Changed or random assignments before the space is taken for exhausted.
_TRIES = 400
#: Spaces up to this size are gone through one by one when nothing new turns up by chance.
_SMALL = 20_000


class StudySampler:
    """Proposes from the trials in a store.

    A proposal depends on the seed and the trials in the store alone: a search that was killed and resumed proposes
    what it would have proposed.

    Args:
        name: the candidates' source.
        build: makes the Optuna sampler from a seed and the number of seed trials.
        space: to choose from.
        store: read at each proposal.
        objectives: of the store.
        constraints: trials that break one guide the sampler away.
        seed: of all random numbers.
    """

    def __init__(
        self,
        *,
        name: str,
        build: Callable[[int, int], BaseSampler],
        space: SearchSpace,
        store: TrialStore,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        seed: int = 0,
    ) -> None:
        self.name = name
        self._build = build
        self._space = space
        self._store = store
        self._seed = seed
        self._tried: set[str] = set()
        self._n_known = 0
        with quiet_optuna():
            self._mirror = Mirror(space, objectives, constraints, name)

    def ask(self) -> Candidate | None:
        """A candidate whose plan is in no trial of the store; None when the space has no other."""
        trials = self._store.trials()
        self._tried.update(trial.plan.digest for trial in trials[self._n_known :])
        self._n_known = len(trials)
        rng = np.random.default_rng([self._seed, len(trials)])
        with quiet_optuna():
            self._mirror.sync(trials)
            for assignment in self._assignments(rng):
                plan = self._space.plan(assignment)
                if plan.digest not in self._tried:
                    return Candidate(plan=plan, source=self.name, assignment=assignment)
        return None

    def _assignments(self, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        """The sampler's own, then its last with ever more choices changed, then random ones, then all there are."""
        choices = self._space.choices
        if not choices:
            yield {}
            return
        # A fresh sampler each time: one that went on would propose otherwise after a resume.
        sampler = self._build(int(rng.integers(2**31)), self._mirror.n_seeds)
        proposed: dict[str, Any] = {}
        for _ in range(_ASKS):
            proposed = self._mirror.sample(sampler)
            yield proposed
        for attempt in range(_TRIES):
            changed = min(len(choices), 1 + attempt * len(choices) // _TRIES)
            picked = rng.choice(len(choices), size=changed, replace=False)
            yield proposed | {
                choices[i].name: choices[i].options[rng.integers(len(choices[i].options))] for i in picked
            }
        if self._space.log10_size <= np.log10(_SMALL):
            for options in itertools.product(*(choice.options for choice in choices)):
                yield {choice.name: chosen for choice, chosen in zip(choices, options, strict=True)}
