"""Intervals of a median that hold for any distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.measure.order_statistics import correlated_interval, median_interval


@pytest.mark.parametrize(
    ("count", "confidence", "low"),
    [(6, 1 - 2 * 1 / 2**6, 1), (9, 1 - 2 * (1 + 9) / 2**9, 2), (15, 1 - 2 * (1 + 15 + 105 + 455) / 2**15, 4)],
)
def test_ends_are_the_order_statistics_of_the_binomial_law(count: int, confidence: float, low: int):
    ends = median_interval(range(1, count + 1), confidence)
    assert ends == pytest.approx((low, count + 1 - low))


def test_between_two_ranks_ends_are_interpolated():
    exact = [1 - 2 * (1 + 20) / 2**20, 1 - 2 * (1 + 20 + 190) / 2**20]
    low, high = median_interval(range(1, 21), sum(exact) / 2)
    assert 2 < low < 3
    assert low + high == pytest.approx(21)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.sampled_from([0.9, 0.95, 0.975]))
def test_the_interval_holds_the_median(values: list[float], confidence: float):
    for low, high in (median_interval(values, confidence), correlated_interval(values, confidence)):
        assert low - 1e-12 <= np.median(values) <= high + 1e-12


def test_its_coverage_is_what_it_says_for_skewed_values():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        low, high = median_interval(rng.lognormal(0.0, 1.0, 17))
        hits += low <= 1.0 <= high
    assert 0.935 <= hits / 1500 <= 0.965


def test_blocks_that_resemble_their_neighbours_widen_it():
    rng = np.random.default_rng(0)
    alone, alike = [], []
    for _ in range(200):
        values = rng.standard_normal(40)
        walk = [values[0]]
        for value in values[1:]:
            walk.append(0.6 * walk[-1] + 0.8 * value)
        alone.append(np.ptp(correlated_interval(values)) / np.ptp(median_interval(values)))
        alike.append(np.ptp(correlated_interval(walk)) / np.ptp(median_interval(walk)))
    assert np.median(alone) < 1.1
    assert np.median(alike) > 1.5


@pytest.mark.parametrize("count", [500, 1030, 4000])
def test_many_values_have_the_interval_of_the_normal_law(count: int):
    low, high = median_interval(range(1, count + 1), 0.95)
    assert high - low == pytest.approx(1.96 * math.sqrt(count), rel=0.02)
    assert low + high == pytest.approx(count + 1)
