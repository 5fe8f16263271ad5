"""Hypervolume over trials."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from autocompress.core.objective import Objective
from autocompress.core.trial import Trial, TrialState
from autocompress.report.progress import hypervolume_history, hypervolume_share, reference_point

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))


def test_reference_is_ten_points_under_and_a_tenth_over(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, accuracy=0.95, latency_ms=2.0)
    assert reference_point(OBJECTIVES, baseline) == pytest.approx((0.85, 2.2))


def test_share_of_one_point_is_its_rectangle(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, accuracy=0.9, latency_ms=2.0)
    point = trial_factory(1, accuracy=0.9, latency_ms=1.1)
    assert hypervolume_share([point], OBJECTIVES, baseline) == pytest.approx((0.1 * 1.1) / (0.2 * 2.2))


def test_history_never_falls(made_up_run: Any) -> None:
    shares = [
        share for _, share in hypervolume_history(made_up_run.trials, made_up_run.objectives, made_up_run.baseline)
    ]
    assert len(shares) == len(made_up_run.trials)
    assert all(a <= b for a, b in pairwise(shares))


def test_a_failed_trial_changes_nothing(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0)
    failed = trial_factory(1, state=TrialState.FAIL, error="build: no")
    history = hypervolume_history([baseline, failed], OBJECTIVES, baseline)
    assert history[0][1] == history[1][1] > 0
