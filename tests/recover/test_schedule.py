"""Warm-up, peak, cool-down."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.recover.schedule import WARM_UP, stable_until, trapezoid


def test_it_rises_linearly_through_the_first_steps() -> None:
    assert [trapezoid(step, 50) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_it_falls_through_the_last_part() -> None:
    assert trapezoid(29, 50) == 1.0
    assert trapezoid(30, 50) == pytest.approx(1 - math.sqrt(1 / 21))
    assert trapezoid(49, 50) == pytest.approx(1 - math.sqrt(20 / 21))


def test_a_step_past_the_end_has_the_last_steps_rate() -> None:
    assert trapezoid(500, 50) == trapezoid(49, 50) > 0


@given(st.integers(1, 400), st.integers(0, 600))
def test_every_rate_is_a_share_of_the_peak(steps: int, step: int) -> None:
    assert 0 < trapezoid(step, steps) <= 1


@given(st.integers(1, 400), st.integers(0, 400))
def test_a_longer_run_begins_like_a_shorter_one(steps: int, more: int) -> None:
    stable = range(stable_until(steps))
    assert [trapezoid(step, steps) for step in stable] == [trapezoid(step, steps + more) for step in stable]


@given(st.integers(WARM_UP, 400))
def test_it_never_rises_after_the_warm_up(steps: int) -> None:
    rates = [trapezoid(step, steps) for step in range(WARM_UP - 1, steps)]
    assert rates == sorted(rates, reverse=True)
