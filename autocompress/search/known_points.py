"""What the trials of a run have told of each plan, beside what the profile says of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import AutocompressError
from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import miss
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial, TrialState
from autocompress.search.aim import Aim, healing_steps
from autocompress.search.estimates import Estimate
from autocompress.search.option_effects import Terms
from autocompress.search.training_steps import STEPS, TrainingSteps

#: Plans that are learned from, the best first.
_REMEMBERED = 400
#: Failures of an option that never succeeded, after which it is not proposed again.
_FAILURES = 3
#: In place of a cost of nothing, which has no logarithm.
NOTHING = 1e-12
#: How much less a figure says of a trial that was stopped early.
_STOPPED = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPoint:
    """What the trials of one plan, however long it was trained, have told.

    Args:
        assignment: of its choices.
        gap: loss of quality beyond the best, after all training that may follow; infinite where it is not known.
        costs: losses of the other objectives.
        estimated: ``(n_objectives - 1,)`` logarithms of the same by the profile.
        error: standard deviation of the gap.
        missed: how far past the bounds on other metrics than quality; infinite where it was not scored to the end.
    """

    assignment: Mapping[str, Any]
    gap: float
    costs: tuple[float, ...]
    estimated: NDArray[np.float64]
    error: float
    missed: float


class KnownPoints:
    """Reads trials.

    Args:
        space: whose assignments count.
        terms: of the space.
        estimates: metric other than quality to a function from plans to rough costs.
        objectives: quality first.
        constraints: of the search.
    """

    def __init__(
        self,
        space: SearchSpace,
        terms: Terms,
        estimates: Mapping[str, Estimate],
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
    ) -> None:
        self._space = space
        self._terms = terms
        self._estimates = estimates
        self._quality, *self._costs = objectives
        self._bounds = [bound for bound in constraints if bound.metric not in QUALITY_METRICS]
        self._steps = TrainingSteps.of(space)
        self._estimated: dict[tuple[Any, ...], NDArray[np.float64] | None] = {}

    def of(self, trials: Sequence[Trial], aim: Aim) -> list[KnownPoint]:
        """One point of each plan, the best first, trained for as long as any of it was.

        Trials that say nothing of costs, or that the profile has no price for, are left out.
        """
        excess = self._quick_excess(trials)
        found: dict[str, tuple[int, KnownPoint]] = {}
        for trial in trials:
            point = self._point(trial, aim, excess)
            if point is None:
                continue
            form, steps = trial.plan.replace(distillation=None).digest, healing_steps(trial.plan)
            if form not in found or (-point.missed, steps) >= (-found[form][1].missed, found[form][0]):
                found[form] = (steps, point)
        points = [point for _, point in found.values()]
        return sorted(points, key=lambda point: point.gap)[:_REMEMBERED]

    def log_estimates(self, assignment: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """``(n_objectives - 1,)`` logarithms of the costs that the profile tells; None where it has no price."""
        gone = self._terms.gone(assignment)
        key = tuple(None if c.subject in gone else assignment[c.name] for c in self._terms.choices)
        if key not in self._estimated:
            plan = self._space.plan(assignment).replace(distillation=None)
            try:
                costs = [self._estimates[objective.metric](plan) for objective in self._costs]
                self._estimated[key] = np.log(np.maximum(costs, NOTHING))
            except AutocompressError:
                self._estimated[key] = None
        return self._estimated[key]

    def _point(self, trial: Trial, aim: Aim, excess: float) -> KnownPoint | None:
        assignment = trial.candidate.assignment
        if trial.state is TrialState.FAIL or not self._terms.covers(assignment):
            return None
        if any(objective.metric not in trial.measurements for objective in self._costs):
            return None
        estimated = self.log_estimates(assignment)
        if estimated is None:
            return None
        whole = trial.state is TrialState.COMPLETE
        return KnownPoint(
            assignment={**assignment, STEPS: self._steps.fewest} if self._steps is not None else assignment,
            gap=self._gap(trial, aim, excess),
            costs=tuple(objective.loss(trial.value(objective.metric)) for objective in self._costs),
            estimated=estimated,
            error=aim.error * (1.0 if whole else _STOPPED),
            missed=miss(trial, self._bounds) if whole else math.inf,
        )

    def _gap(self, trial: Trial, aim: Aim, excess: float) -> float:
        metric = self._quality.metric
        for name, more in ((metric, 0.0), (f"quick_{metric}", excess)):
            if name in trial.measurements:
                left = () if self._steps is None else self._steps.lengths(trial.plan, beyond=True)
                now = self._quality.loss(trial.value(name) - more) - aim.best
                return max(0.0, aim.hoped(now, healing_steps(trial.plan), left))
        return math.inf

    def _quick_excess(self, trials: Sequence[Trial]) -> float:
        """By how much more quality is found on the small sample than on all."""
        metric = self._quality.metric
        quick = f"quick_{metric}"
        both = [t for t in trials if t.state is TrialState.COMPLETE and quick in t.measurements]
        return float(np.median([t.value(quick) - t.value(metric) for t in both])) if both else 0.0


def refused_options(trials: Sequence[Trial]) -> frozenset[tuple[str, Any]]:
    """Choices and options that several trials failed with and none succeeded."""
    failed: Counter[tuple[str, Any]] = Counter()
    good: set[tuple[str, Any]] = set()
    for trial in trials:
        if trial.state is TrialState.FAIL:
            failed.update(trial.candidate.assignment.items())
        elif trial.state is TrialState.COMPLETE:
            good.update(trial.candidate.assignment.items())
    return frozenset(item for item, count in failed.items() if count >= _FAILURES and item not in good)
