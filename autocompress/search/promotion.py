"""More healing for what is on the front: the second of two rising budgets across trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autocompress.core.objective import Constraint, Objective
from autocompress.core.pareto import constrained_front, hypervolume, loss_matrix, non_dominated_mask
from autocompress.core.plan import CompressionPlan
from autocompress.core.protocols import TrialStore
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Candidate, Trial
from autocompress.search.tuner import Proposer

STEPS = "distillation:steps"
#: How far past the space's largest number of steps the point that users want most may go.
BEYOND = 2
#: Loss of quality, as a share, that is allowed where the user set no limit.
USUAL_DROP = 0.01
#: What longer healing may well win back.
WITHIN_REACH = 0.01
#: Share of the gap to the best quality that longer healing is assumed to close.
HOPED = 0.5
SOURCE = "promotion"


class Promotion:
    """Proposes front trials again with more healing, in turn with another proposer.

    Whether a front trial was healed for as long as the space allows is no question for a sampler: longer healing costs
    time and nothing else.

    Args:
        inner: proposes otherwise.
        space: whose healing steps are climbed.
        store: read at each proposal.
        objectives: what the front is of.
        constraints: likewise.
        every: promotions come at most once in so many proposals, so that the search still explores.
    """

    def __init__(
        self,
        inner: Proposer,
        *,
        space: SearchSpace,
        store: TrialStore,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        every: int = 2,
    ) -> None:
        self._inner = inner
        self._store = store
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._every = every
        self._steps = next((choice for choice in space.choices if choice.name == STEPS), None)

    def ask(self) -> Candidate | None:
        """A promoted front trial in its turn, else what the inner proposer says; None when neither has anything."""
        trials = self._store.trials()
        promoted = self._promoted(trials)
        recent = trials[-(self._every - 1) :] if self._every > 1 else []
        if promoted is not None and not any(trial.candidate.source == SOURCE for trial in recent):
            return promoted
        found = self._inner.ask()
        return promoted if found is None else self._first_short(found, trials)

    def _first_short(self, candidate: Candidate, trials: Sequence[Trial]) -> Candidate:
        """The candidate with no more than the middle number of steps: whether it deserves more is not known yet."""
        plan, steps = candidate.plan, self._steps
        if steps is None or plan.distillation is None or not candidate.assignment:
            return candidate
        middle = steps.options[len(steps.options) // 2]
        if plan.distillation.steps <= int(middle):
            return candidate
        short = plan.replace(distillation=replace(plan.distillation, steps=int(middle)))
        if any(trial.plan.digest == short.digest for trial in trials):
            return candidate
        return replace(candidate, plan=short, assignment={**candidate.assignment, STEPS: middle})

    def _promoted(self, trials: Sequence[Trial]) -> Candidate | None:
        if self._steps is None:
            return None
        tried = {trial.plan.digest for trial in trials}
        front, _ = constrained_front(trials, self._objectives, self._constraints)
        gains = self._gains(front.trials)
        others = [front.trials[index] for index in np.argsort(-gains, kind="stable")]
        wanted = self._wanted(trials, front.trials)
        longest = int(self._steps.options[-1])
        top = next((t for t in wanted if t.plan.distillation and t.plan.distillation.steps >= longest), None)
        for trial in [*wanted, *others]:
            candidate = self._longer(trial, self._steps, beyond=trial is top)
            if candidate is not None and candidate.plan.digest not in tried:
                return candidate
        return None

    def _wanted(self, trials: Sequence[Trial], front: Sequence[Trial]) -> list[Trial]:
        """Front trials that users ask for most: within reach of the quality that is allowed, the cheapest first."""
        quality, *costs = self._objectives
        baseline = next((t for t in trials if t.plan == CompressionPlan() and quality.metric in t.measurements), None)
        if baseline is None or not costs:
            return []
        bounds = [c.bound for c in self._constraints if c.metric == quality.metric]
        limit = bounds[0] if bounds else baseline.value(quality.metric) - USUAL_DROP
        near = [t for t in front if t.value(quality.metric) >= limit - WITHIN_REACH]
        return sorted(near, key=lambda t: costs[0].loss(t.value(costs[0].metric)))

    def _gains(self, trials: Sequence[Trial]) -> NDArray[np.float64]:
        """``(n_trials,)`` hypervolume that each adds if it wins back :data:`HOPED` of its gap to the best quality."""
        losses = loss_matrix(trials, self._objectives)
        if len(losses) == 0:
            return np.zeros(0)
        span = np.maximum(losses.max(0) - losses.min(0), 1e-12)
        scaled = (losses - losses.min(0)) / span
        edge = np.full(scaled.shape[1], 1.1)
        now = hypervolume(scaled, edge)
        gains = np.zeros(len(scaled))
        for index in range(len(scaled)):
            hoped = scaled.copy()
            hoped[index, 0] *= 1.0 - HOPED
            gains[index] = hypervolume(hoped[non_dominated_mask(hoped)], edge) - now
        return gains

    def _longer(self, trial: Trial, steps: Choice, *, beyond: bool = False) -> Candidate | None:
        """The same candidate with the next number of steps; None where there is none.

        ``beyond`` allows :data:`BEYOND` times the space's largest number once the trial has had that.
        """
        plan, assignment = trial.plan, trial.candidate.assignment
        if plan.distillation is None:
            return None
        options = [*steps.options, BEYOND * int(steps.options[-1])] if beyond else steps.options
        more = next((option for option in options if int(option) > plan.distillation.steps), None)
        if more is None:
            return None
        longer = plan.replace(distillation=replace(plan.distillation, steps=int(more)))
        label = trial.candidate.label.partition(", healed for")[0] or f"trial {trial.number}"
        return Candidate(
            plan=longer,
            source=SOURCE,
            assignment={**assignment, STEPS: more} if assignment else {},
            label=f"{label}, healed for {more} steps",
        )
