"""Outputs of one file on two machines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autocompress.core.trial import Trial
from autocompress.evaluate.agreement import agreement_of, quality_with_device

OUTPUTS = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)


def test_equal_outputs_agree() -> None:
    found = agreement_of([OUTPUTS], [OUTPUTS.copy()])
    assert (found.samples, found.difference, found.same_choice, found.holds) == (8, 0.0, 1.0, True)


def test_rounding_is_tolerated() -> None:
    assert agreement_of([OUTPUTS], [OUTPUTS * 1.02]).holds


def test_another_result_is_not() -> None:
    found = agreement_of([OUTPUTS], [OUTPUTS[::-1]])
    assert not found.holds
    assert found.same_choice < 1
    assert "of 8 samples have the same largest value" in str(found)


def test_the_worst_output_counts() -> None:
    assert not agreement_of([OUTPUTS, OUTPUTS], [OUTPUTS, -OUTPUTS]).holds


def test_nan_shapes_and_missing_outputs_disagree() -> None:
    spoilt = OUTPUTS.copy()
    spoilt[0, 0] = np.nan
    assert not agreement_of([OUTPUTS], [spoilt]).holds
    assert not agreement_of([OUTPUTS], [OUTPUTS[:, :5]]).holds
    assert not agreement_of([OUTPUTS], []).holds


def test_outputs_of_zero_agree_with_zero() -> None:
    assert agreement_of([OUTPUTS * 0], [OUTPUTS * 0]).holds
    assert not agreement_of([OUTPUTS * 0], [OUTPUTS]).holds


def test_it_is_noted_beside_the_quality_only(trial_factory: Callable[..., Trial]) -> None:
    trial = quality_with_device(trial_factory(3), agreement_of([OUTPUTS], [OUTPUTS]))
    assert trial.measurements["accuracy"].details["device"]["same_choice"] == 1.0
    assert "device" not in trial.measurements["latency_ms"].details
