"""More healing for what is on the front: the second of two rising budgets across trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

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
#: Standard deviation of what training closes of a gap, as a share of it, beside the error of the samples.
_UNSURE = 0.25
#: Outcomes in standard deviations and their weights: Gauss-Hermite quadrature with three nodes.
_OUTCOMES = ((-math.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (math.sqrt(3.0), 1 / 6))
#: Share of the time of all trials that longer healing may take; it is more once so many trials have shown what there is
#: to train, or most of those that all the time would hold.
SHARE, LATER_SHARE, MANY, _MOST = 0.3, 0.65, 40, 0.75
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
        in_the_end = np.array([aim.hoped(trial, climb.times_left(trial.plan)) for trial in healed])
        wanted = self._wanted(healed, in_the_end, complete, aim)[0]
        front, _ = constrained_front(trials, self._objectives, self._constraints)
        worth = self._worth(healed, front.trials, complete, aim, climb)
        order = [healed[index] for index in np.argsort(-worth, kind="stable") if worth[index] > 0]
        # One point only goes past the space: the cheapest that is wanted and has had all that the space allows. It is
        # what the search will recommend.
        top = min(
            (t for t, sought in zip(healed, wanted, strict=True) if sought and healing_steps(t.plan) >= climb.longest),
            key=self._cost,
            default=None,
        )
        tried = {trial.plan.digest for trial in trials}
        left, pace = self._seconds_left(), _seconds_a_step(trials)
        for trial in order:
            candidate = self._longer(trial, climb, beyond=trial is top)
            if candidate is None or candidate.plan.digest in tried:
                continue
            if left is None or pace * healing_steps(candidate.plan) <= left:
                return candidate
        return None

    def _cost(self, trial: Trial) -> float:
        """Loss of the first objective besides quality."""
        cost = self._objectives[1]
        return cost.loss(trial.value(cost.metric))

    def _wanted(
        self, trials: Sequence[Trial], hoped: NDArray[np.float64], complete: Sequence[Trial], aim: Aim
    ) -> NDArray[np.bool_]:
        """``(n_limits, n_trials)`` what users ask for most: it is or may become the cheapest of a quality aimed at."""
        found = np.zeros((len(aim.limits), len(trials)), bool)
        if len(self._objectives) < 2:
            return found
        for mask, limit in zip(found, aim.limits, strict=True):
            cheapest = min((self._cost(t) for t in complete if aim.gap(t) <= limit), default=float("inf"))
            mask[:] = [gap <= limit and self._cost(t) <= cheapest for t, gap in zip(trials, hoped, strict=True)]
        return found

    def _worth(
        self, trials: Sequence[Trial], front: Sequence[Trial], complete: Sequence[Trial], aim: Aim, climb: TrainingSteps
    ) -> NDArray[np.float64]:
        """``(n_trials,)`` the most that any longer training is expected to add to the front a step.

        What gains nothing by the next number of steps may gain by the one after it. Expected hypervolume (Emmerich et
        al. 2006) over how well training may go, more of it where the trial becomes the cheapest of a quality aimed at.
        """
        gaps = np.array([aim.gap(trial) for trial in trials])
        open_limits = gaps > np.array(aim.limits)[:, None]
        worth = np.zeros(len(trials))
        for times in range(1, len(climb.choice.options) + 1):
            steps = np.array([self._more_steps(trial, climb.after(trial.plan, times)) for trial in trials])
            hoped = np.array([aim.hoped(trial, times) for trial in trials])
            spread = np.hypot(aim.error, _UNSURE * (gaps - hoped))
            expected = np.zeros(len(trials))
            for deviations, weight in _OUTCOMES:
                gap = np.maximum(hoped + deviations * spread, 0.0)
                wanted = (self._wanted(trials, gap, complete, aim) & open_limits).any(axis=0)
                expected += weight * self._gains(trials, gap, front, aim) * np.where(wanted, _WANTED, 1.0)
            worth = np.maximum(worth, np.where(steps > 0, expected / np.maximum(steps, 1), 0.0))
        return worth

    @staticmethod
    def _more_steps(trial: Trial, steps: int | None) -> int:
        """What a length takes beyond what the trial was trained to; 0 for none."""
        return 0 if steps is None else max(1, steps - stable_until(healing_steps(trial.plan)))

    def _gains(
        self, trials: Sequence[Trial], hoped: NDArray[np.float64], front: Sequence[Trial], aim: Aim
    ) -> NDArray[np.float64]:
        """``(n_trials,)`` hypervolume that each adds to the front if its gap becomes as ``hoped``."""
        losses = loss_matrix([*front, *trials], self._objectives)
        losses[:, 0] = [aim.gap(trial) for trial in (*front, *trials)]
        now, then = losses[: len(front)], losses[len(front) :].copy()
        then[:, 0] = hoped
        return volume_gains(now, then, losses[len(front) :], aim.allowed)

    def _longer(self, trial: Trial, steps: TrainingSteps, *, beyond: bool = False) -> Candidate | None:
        """The same candidate with the next number of steps, past the space's largest with ``beyond``."""
        plan, assignment = trial.plan, trial.candidate.assignment
        more = steps.next(plan, beyond=beyond)
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


def _seconds(trial: Trial) -> float:
    return sum(trial.stage_seconds.values())


def _seconds_a_step(trials: Sequence[Trial]) -> float:
    """What a step of training took in this run; 0 before the first."""
    trained = [t for t in trials if t.state is TrialState.COMPLETE and healing_steps(t.plan)]
    steps = sum(healing_steps(trial.plan) for trial in trained)
    return sum(trial.stage_seconds.get("heal", 0.0) for trial in trained) / steps if steps else 0.0
