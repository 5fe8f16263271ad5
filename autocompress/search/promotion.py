"""More healing for what is on the front: the second of two rising budgets across trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import constrained_front, loss_matrix, miss
from autocompress.core.protocols import TrialStore
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.recover.schedule import stable_until
from autocompress.search.aim import Aim, healing_steps
from autocompress.search.gains import volume_gains
from autocompress.search.training_steps import STEPS, TrainingSteps
from autocompress.search.tuner import Proposer

#: How much more a point counts that training may bring within the allowed loss, where it is the cheapest.
_WANTED = 10.0
#: A front of fewer points is little to choose from.
_FEW = 10
#: Scaled hypervolume that a point counts more there for joining and taking no other's place; less as the front fills.
_CHOICE = 0.02
#: The most that it may lose for that, in losses allowed, and how much more or less than each other point it must cost.
_USABLE, _APART = 8.0, 0.04
#: Outcomes in standard deviations and their weights: Gauss-Hermite quadrature with three nodes.
_OUTCOMES = ((-math.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (math.sqrt(3.0), 1 / 6))
#: Share of the time of all trials that longer healing may take; it is more once so many trials have shown what there is
#: to train, or most of those that all the time would hold.
SHARE, LATER_SHARE, MANY, _MOST = 0.2, 0.65, 40, 0.75
SOURCE = "promotion"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What users ask for most: the cheapest of each quality aimed at.

    Args:
        limits: ``(n_limits, 1)`` gaps aimed at.
        cheapest: ``(n_limits, 1)`` least cost of what is within each, as a loss.
        costs: ``(n_trials,)`` of the trials that are asked about, likewise; none is low enough with quality alone.
    """

    limits: NDArray[np.float64]
    cheapest: NDArray[np.float64]
    costs: NDArray[np.float64]

    @classmethod
    def of(
        cls, objectives: Sequence[Objective], complete: Sequence[Trial], trials: Sequence[Trial], aim: Aim
    ) -> _Wanted:
        """By the first objective besides quality."""
        limits = np.array(aim.limits)[:, None]
        if len(objectives) < 2:
            return cls(limits, np.full_like(limits, -np.inf), np.zeros(len(trials)))
        known, costs = (loss_matrix(some, objectives)[:, 1] for some in (complete, trials))
        gaps = np.array([aim.gap(trial) for trial in complete])
        cheapest = np.where(gaps <= limits, known, np.inf).min(axis=1, keepdims=True)
        return cls(limits, cheapest, costs)

    def at(self, gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
        """``(n_limits, n_trials)`` whether each trial is or becomes what is wanted once its gap is as given."""
        found: NDArray[np.bool_] = (gaps <= self.limits) & (self.costs <= self.cheapest)
        return found


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
        seconds_left: for trials; None without a limit. What would take longer is not begun.
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
        seconds_left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._inner = inner
        self._space = space
        self._store = store
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._every = every
        self._seconds_left = seconds_left
        self._steps = TrainingSteps.of(space)

    def ask(self) -> Candidate | None:
        """A promoted trial in its turn, else what the inner proposer says; None when neither has anything."""
        trials = self._store.trials()
        recent = trials[-(self._every - 1) :] if self._every > 1 else []
        if not any(trial.candidate.source == SOURCE for trial in recent):
            promoted = self._promoted(trials)
            # What promises most is waited for, however long it takes: a cheaper one would spend its share.
            if promoted is not None and self._within_share(promoted, trials):
                return promoted
        found = self._inner.ask()
        return self._promoted(trials) if found is None else self._first_short(found, trials)

    def _within_share(self, candidate: Candidate, trials: Sequence[Trial]) -> bool:
        """Whether training takes no more than its share of the time, this candidate's included."""
        expected = _seconds_a_step(trials) * healing_steps(candidate.plan)
        spent = sum(_seconds(trial) for trial in trials if trial.candidate.source == SOURCE)
        share = SHARE if len(trials) < self._many(trials) else LATER_SHARE
        return spent + expected <= share * (sum(map(_seconds, trials)) + expected)

    def _many(self, trials: Sequence[Trial]) -> float:
        """Trials after which there is more to train than to try."""
        left = self._seconds_left()
        quick = [_seconds(t) for t in trials if t.state is TrialState.COMPLETE and not healing_steps(t.plan)]
        pace = sum(quick) / len(quick) if quick else 0.0
        return MANY if left is None or not pace else min(MANY, _MOST * (sum(map(_seconds, trials)) + left) / pace)

    def _first_short(self, candidate: Candidate, trials: Sequence[Trial]) -> Candidate:
        """The candidate with the fewest steps: whether it deserves more is not known yet."""
        plan, steps = candidate.plan, self._steps
        if steps is None or plan.distillation is None or not candidate.assignment:
            return candidate
        if plan.distillation.steps <= steps.fewest:
            return candidate
        assignment = {**candidate.assignment, STEPS: steps.fewest}
        short = self._space.plan(assignment)
        if any(trial.plan.digest == short.digest for trial in trials):
            return candidate
        return replace(candidate, plan=short, assignment=assignment)

    def _promoted(self, trials: Sequence[Trial]) -> Candidate | None:
        """The trial whose longer healing promises most a step, trained longer; None where none promises anything."""
        climb = self._steps
        if climb is None:
            return None
        complete = [t for t in trials if t.state is TrialState.COMPLETE]
        healed = [t for t in complete if t.plan.distillation is not None]
        # Training helps no other bound than that on quality.
        bounds = [bound for bound in self._constraints if bound.metric not in QUALITY_METRICS]
        least = min((miss(trial, bounds) for trial in healed), default=0.0)
        healed = [trial for trial in healed if miss(trial, bounds) <= least]
        if not healed:
            return None
        aim = Aim.of(complete, self._objectives[0], self._constraints)
        front, _ = constrained_front(trials, self._objectives, self._constraints)
        wanted = _Wanted.of(self._objectives, complete, healed, aim)
        worth = self._worth(healed, front.trials, wanted, aim, climb)
        order = [healed[index] for index in np.argsort(-worth, kind="stable") if worth[index] > 0]
        # One point only goes past the space: the cheapest that is wanted and has had all that the space allows. It is
        # what the search will recommend.
        ends = [climb.lengths(trial.plan, beyond=True) for trial in healed]
        in_the_end = np.array([_outlook(aim, t, lengths)[0] for t, lengths in zip(healed, ends, strict=True)])
        sought = wanted.at(in_the_end)[0] & [healing_steps(trial.plan) >= climb.longest for trial in healed]
        top = healed[int(np.argmin(np.where(sought, wanted.costs, np.inf)))] if sought.any() else None
        tried = {trial.plan.digest for trial in trials}
        left, pace = self._seconds_left(), _seconds_a_step(trials)
        for trial in order:
            candidate = self._longer(trial, climb, beyond=trial is top)
            if candidate is None or candidate.plan.digest in tried:
                continue
            if left is None or pace * healing_steps(candidate.plan) <= left:
                return candidate
        return None

    def _worth(
        self, trials: Sequence[Trial], front: Sequence[Trial], wanted: _Wanted, aim: Aim, climb: TrainingSteps
    ) -> NDArray[np.float64]:
        """``(n_trials,)`` the most that any longer training is expected to add to the front a step.

        What gains nothing by the next number of steps may gain by the one after it. Expected hypervolume (Emmerich et
        al. 2006) over how well training may go, more of it where the trial becomes the cheapest of a quality aimed at.
        """
        losses = loss_matrix([*front, *trials], self._objectives)
        losses[:, 0] = [aim.gap(trial) for trial in (*front, *trials)]
        now, before = losses[: len(front)], losses[len(front) :]
        gaps = before[:, 0]
        open_limits = gaps > np.array(aim.limits)[:, None]
        # Past the space only what has had all that it allows.
        lengths = [climb.lengths(t.plan, beyond=healing_steps(t.plan) >= climb.longest) for t in trials]
        worth = np.zeros(len(trials))
        for times in range(1, max(map(len, lengths)) + 1):
            steps = np.array([_more_steps(t, some[times - 1 : times]) for t, some in zip(trials, lengths, strict=True)])
            outlooks = [_outlook(aim, t, some[:times]) for t, some in zip(trials, lengths, strict=True)]
            hoped, spread = np.array(outlooks).T
            spread = np.hypot(aim.error, spread)
            expected = np.zeros(len(trials))
            for deviations, weight in _OUTCOMES:
                then = before.copy()
                then[:, 0] = np.maximum(hoped + deviations * spread, 0.0)
                more = np.where((wanted.at(then[:, 0]) & open_limits).any(axis=0), _WANTED, 1.0)
                gains = more * volume_gains(now, then, before, aim.allowed)
                expected += weight * (gains + _choice(now, then, aim.allowed))
            worth = np.maximum(worth, np.where(steps > 0, expected / np.maximum(steps, 1), 0.0))
        return worth

    def _longer(self, trial: Trial, steps: TrainingSteps, *, beyond: bool = False) -> Candidate | None:
        """The same candidate with the next number of steps, past the space's largest with ``beyond``."""
        plan, assignment = trial.plan, trial.candidate.assignment
        more = next(iter(steps.lengths(plan, beyond=beyond)), None)
        if plan.distillation is None or more is None:
            return None
        # How to train is in the assignment; a plan that trains nothing does not say.
        way = self._space.plan({**assignment, STEPS: steps.longest}).distillation if assignment else plan.distillation
        longer = plan.replace(distillation=replace(way or plan.distillation, steps=more))
        label = trial.candidate.label.partition(", healed for")[0] or f"trial {trial.number}"
        return Candidate(
            plan=longer,
            source=SOURCE,
            assignment={**assignment, STEPS: more} if assignment else {},
            label=f"{label}, healed for {more} steps",
        )


def _outlook(aim: Aim, trial: Trial, lengths: Sequence[int]) -> tuple[float, float]:
    return aim.outlook(aim.gap(trial), healing_steps(trial.plan), lengths)


def _choice(front: NDArray[np.float64], points: NDArray[np.float64], allowed: float) -> NDArray[np.float64]:
    """``(n_points,)`` volume that each counts more for being one more to choose from."""
    count = len(front)
    if count >= _FEW or points.shape[1] < 2:
        return np.zeros(len(points))
    below = np.all(front[None] <= points[:, None], axis=-1)
    above = np.all(front[None] >= points[:, None], axis=-1)
    costs, others = np.abs(points[:, None, 1:]), np.abs(front[None, :, 1:])
    apart = np.all(np.any(np.abs(costs - others) > _APART * np.minimum(costs, others), axis=-1), axis=1)
    joins = ~np.any(below | above, axis=1) & apart & (points[:, 0] <= _USABLE * allowed)
    return np.where(joins, _CHOICE * (1.0 - count / _FEW), 0.0)


def _more_steps(trial: Trial, length: Sequence[int]) -> int:
    """What a length takes beyond what the trial was trained to; 0 where there is none."""
    return max([max(1, steps - stable_until(healing_steps(trial.plan))) for steps in length], default=0)


def _seconds(trial: Trial) -> float:
    return sum(trial.stage_seconds.values())


def _seconds_a_step(trials: Sequence[Trial]) -> float:
    """What a step of training took in this run; 0 before the first."""
    trained = [t for t in trials if t.state is TrialState.COMPLETE and healing_steps(t.plan)]
    steps = sum(healing_steps(trial.plan) for trial in trained)
    return sum(trial.stage_seconds.get("heal", 0.0) for trial in trained) / steps if steps else 0.0
