"""More healing for what is on the front: the second of two rising budgets across trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import constrained_front, hypervolume, loss_matrix, miss, non_dominated_mask
from autocompress.core.plan import CompressionPlan
from autocompress.core.protocols import TrialStore
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.search.tuner import Proposer

STEPS = "distillation:steps"
#: How far past the space's largest number of steps the point that users want most may go.
BEYOND = 2
#: Loss of quality, as a share, that is allowed where the user set no limit.
USUAL_DROP = 0.01
#: Share of the gap to the uncompressed or the best quality that training at all, and training longer, may well close.
HOPED, HOPED_LONGER = 0.75, 0.5
SOURCE = "promotion"


class Promotion:
    """Proposes trials again with more healing, in turn with another proposer.

    Whether a good trial is trained for as long as the space allows is no question for a sampler: longer healing costs
    time and nothing else. Every candidate is first refitted in closed form only; those that may win the front once they
    are trained climb the space's numbers of steps.

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
        self._space = space
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
        """The candidate with the fewest steps: whether it deserves more is not known yet."""
        plan, steps = candidate.plan, self._steps
        if steps is None or plan.distillation is None or not candidate.assignment:
            return candidate
        fewest = steps.options[0]
        if plan.distillation.steps <= int(fewest):
            return candidate
        assignment = {**candidate.assignment, STEPS: fewest}
        short = self._space.plan(assignment)
        if any(trial.plan.digest == short.digest for trial in trials):
            return candidate
        return replace(candidate, plan=short, assignment=assignment)

    def _promoted(self, trials: Sequence[Trial]) -> Candidate | None:
        if self._steps is None:
            return None
        tried = {trial.plan.digest for trial in trials}
        front, _ = constrained_front(trials, self._objectives, self._constraints)
        complete = [t for t in trials if t.state is TrialState.COMPLETE and t.plan.distillation is not None]
        # Training helps no other bound than that on quality.
        bounds = [bound for bound in self._constraints if bound.metric not in QUALITY_METRICS]
        least = min((miss(trial, bounds) for trial in complete), default=0.0)
        complete = [trial for trial in complete if miss(trial, bounds) <= least]
        gains = self._gains(complete, front.trials, best=self._best_quality(trials))
        hopeful = [complete[index] for index in np.argsort(-gains, kind="stable") if gains[index] > 0]
        # Those that were not trained yet first: a few steps win most, and cost least.
        wanted = sorted(self._wanted(trials, hopeful), key=lambda trial: _steps(trial) > 0)
        longest = int(self._steps.options[-1])
        top = next((trial for trial in wanted if _steps(trial) >= longest), None)
        for trial in [*wanted, *hopeful]:
            candidate = self._longer(trial, self._steps, beyond=trial is top)
            if candidate is not None and candidate.plan.digest not in tried:
                return candidate
        return None

    def _wanted(self, trials: Sequence[Trial], hopeful: Sequence[Trial]) -> list[Trial]:
        """Trials that users ask for most: within reach of the quality that is allowed, the cheapest first."""
        quality, *costs = self._objectives
        baseline = next((t for t in trials if t.plan == CompressionPlan() and quality.metric in t.measurements), None)
        if baseline is None or not costs:
            return []
        bounds = [c.bound for c in self._constraints if c.metric == quality.metric]
        best = baseline.value(quality.metric)
        limit = bounds[0] if bounds else best - USUAL_DROP

        def hoped(trial: Trial) -> float:
            value = trial.value(quality.metric)
            return value + _hope(trial) * max(0.0, best - value)

        near = [t for t in hopeful if hoped(t) >= limit]
        return sorted(near, key=lambda t: costs[0].loss(t.value(costs[0].metric)))

    def _best_quality(self, trials: Sequence[Trial]) -> float:
        """The least loss of quality of any complete trial, whatever bound it breaks."""
        quality = self._objectives[0]
        return min(
            (quality.loss(t.value(quality.metric)) for t in trials if t.state is TrialState.COMPLETE), default=0.0
        )

    def _gains(self, trials: Sequence[Trial], front: Sequence[Trial], *, best: float) -> NDArray[np.float64]:
        """``(n_trials,)`` hypervolume for each step of training that each adds to the front if all goes well.

        It then wins back a share of its gap to the ``best`` quality.
        """
        losses = loss_matrix([*front, *trials], self._objectives)
        if len(trials) == 0:
            return np.zeros(0)
        low = losses.min(0)
        low[0] = min(low[0], best)
        scaled = (losses - low) / np.maximum(losses.max(0) - low, 1e-12)
        edge = np.full(scaled.shape[1], 1.1)
        known, hoped = scaled[: len(front)], scaled[len(front) :].copy()
        hoped[:, 0] *= 1.0 - np.array([_hope(trial) for trial in trials])
        now = hypervolume(known, edge)
        # Most cannot join whatever happens: their volume, which is dear with many objectives, is not asked for.
        beaten = (known[None] <= hoped[:, None]).all(-1).any(1)
        gains = np.zeros(len(hoped))
        for index in np.flatnonzero(~beaten):
            gains[index] = _volume(np.vstack([known, hoped[index]]), edge) - now
        return np.asarray(gains / [self._next_steps(trial) for trial in trials])

    def _next_steps(self, trial: Trial) -> int:
        """The number of steps that comes next; the space's largest where there is none."""
        assert self._steps is not None
        options = [int(option) for option in self._steps.options]
        return max(1, next((steps for steps in options if steps > _steps(trial)), options[-1]))

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
        longest = steps.options[-1]
        # How to train is in the assignment; a plan that trains nothing does not say.
        way = self._space.plan({**assignment, STEPS: longest}).distillation if assignment else plan.distillation
        longer = plan.replace(distillation=replace(way or plan.distillation, steps=int(more)))
        label = trial.candidate.label.partition(", healed for")[0] or f"trial {trial.number}"
        return Candidate(
            plan=longer,
            source=SOURCE,
            assignment={**assignment, STEPS: more} if assignment else {},
            label=f"{label}, healed for {more} steps",
        )


def _steps(trial: Trial) -> int:
    return trial.plan.distillation.steps if trial.plan.distillation is not None else 0


def _hope(trial: Trial) -> float:
    return HOPED if _steps(trial) == 0 else HOPED_LONGER


def _volume(points: NDArray[np.float64], edge: NDArray[np.float64]) -> float:
    return float(hypervolume(points[non_dominated_mask(points)], edge))
