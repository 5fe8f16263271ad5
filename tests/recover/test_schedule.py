"""Warm-up and cosine."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.recover.schedule import cosine


def test_it_rises_linearly_through_the_first_tenth() -> None:
    assert [cosine(step, 50) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_it_falls_along_half_a_cosine() -> None:
    assert cosine(5, 50) == 1.0
    assert cosine(5 + 15, 50) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)))
    assert cosine(49, 50) == pytest.approx(0.5 * (1 + math.cos(math.pi * 44 / 45)))


def test_a_step_past_the_end_has_the_last_steps_rate() -> None:
    assert cosine(500, 50) == cosine(49, 50) > 0


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert cosine(0, 20, warm_up=0.0) == 1.0


@given(st.integers(1, 400), st.integers(0, 600))
def test_every_rate_is_a_share_of_the_peak(steps: int, step: int) -> None:
    assert 0 < cosine(step, steps) <= 1


@given(st.integers(2, 400))
def test_it_never_rises_after_the_warm_up(steps: int) -> None:
    rates = [cosine(step, steps) for step in range(round(0.1 * steps), steps)]
    assert rates == sorted(rates, reverse=True)
