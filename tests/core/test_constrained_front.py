"""Fronts under constraints."""

from __future__ import annotations

from collections.abc import Callable

from autocompress.core.objective import Constraint, Objective
from autocompress.core.pareto import NEAREST_MISSES, constrained_front
from autocompress.core.trial import Trial, TrialState

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
FAST = Constraint(metric="latency_ms", bound=1.5)


def test_only_trials_that_respect_the_bound_are_on_the_front(trial_factory: Callable[..., Trial]) -> None:
    slow, fast = trial_factory(0, accuracy=0.95, latency_ms=2.0), trial_factory(1, accuracy=0.9, latency_ms=1.0)
    front, feasible = constrained_front([slow, fast], OBJECTIVES, [FAST])
    assert feasible
    assert [t.number for t in front.trials] == [1]


def test_the_nearest_misses_stand_in_where_nothing_fits(trial_factory: Callable[..., Trial]) -> None:
    trials = [trial_factory(i, accuracy=0.9 + i / 100, latency_ms=2.0 + i) for i in range(6)]
    front, feasible = constrained_front(trials, OBJECTIVES, [FAST])
    assert not feasible
    assert {t.number for t in front.trials} == set(range(NEAREST_MISSES))


def test_failures_never_count(trial_factory: Callable[..., Trial]) -> None:
    failed = trial_factory(0, state=TrialState.FAIL, error="build: no")
    front, feasible = constrained_front([failed], OBJECTIVES, [FAST])
    assert feasible
    assert front.trials == ()


def test_a_bound_on_what_was_not_taken_is_broken(trial_factory: Callable[..., Trial]) -> None:
    bound = Constraint(metric="energy_mj", bound=1.0)
    _, feasible = constrained_front([trial_factory(0)], OBJECTIVES, [bound])
    assert not feasible
