"""Ranges from histograms against numpy on the raw values."""

from collections.abc import Callable

import numpy as np
import pytest

from autocompress.compress.histogram import Histogram
from autocompress.compress.ranges import CHOOSERS, entropy, minmax, moving_average, mse, percentile
from autocompress.core.plan import CALIBRATORS


def histogram_of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), 7):
        histogram.add(part)
    return histogram


def quantized(values: np.ndarray, low: float, high: float) -> np.ndarray:
    step = (high - low) / 255
    return np.clip(np.round((values - low) / step), 0, 255) * step + low


@pytest.fixture
def signed() -> np.ndarray:
    return np.random.default_rng(0).standard_t(4, 200_000)


@pytest.fixture
def rectified(signed: np.ndarray) -> np.ndarray:
    return np.maximum(signed, 0)


def test_every_calibrator_of_a_plan_is_there() -> None:
    assert tuple(CHOOSERS) == CALIBRATORS


def test_minmax_is_the_extremes(signed: np.ndarray) -> None:
    assert minmax(histogram_of(signed)) == (np.float32(signed.min()), np.float32(signed.max()))


@pytest.mark.parametrize("batches", [1, 4, 40])
def test_moving_average_is_the_recursion_over_the_batches(batches: int) -> None:
    rng = np.random.default_rng(batches)
    parts = [rng.normal(size=50).astype(np.float32) for _ in range(batches)]
    histogram = Histogram()
    for part in parts:
        histogram.add(part, count=False)
    # The first ten batches count alike, each later one a tenth.
    low, high = (np.mean([edge(part) for part in parts[:10]]) for edge in (np.min, np.max))
    for part in parts[10:]:
        low, high = 0.9 * low + 0.1 * part.min(), 0.9 * high + 0.1 * part.max()
    np.testing.assert_allclose(moving_average(histogram), (low, high), rtol=1e-6)


def test_one_odd_batch_moves_the_average_little() -> None:
    histogram = Histogram()
    for batch in range(20):
        histogram.add(np.array([-1, 1], np.float32) * (100 if batch == 19 else 1))
    assert minmax(histogram) == (-100, 100)
    np.testing.assert_allclose(moving_average(histogram), (-10.9, 10.9), rtol=1e-6)


def test_percentile_of_signed_values_is_numpys_within_a_bin(signed: np.ndarray) -> None:
    histogram = histogram_of(signed)
    # 20 of 200,000 are cut off, 10 at each end.
    ends = np.sort(signed)[[10, -11]]
    np.testing.assert_allclose(percentile(histogram), ends, atol=1.01 * histogram.width)


def test_percentile_of_rectified_values_cuts_above_only(rectified: np.ndarray) -> None:
    histogram = histogram_of(rectified)
    low, high = percentile(histogram)
    assert low == 0.0
    np.testing.assert_allclose(high, np.sort(rectified)[-21], atol=1.01 * histogram.width)


@pytest.mark.parametrize("which", ["signed", "rectified"])
def test_mse_finds_the_clipping_point_that_brute_force_finds(which: str, request: pytest.FixtureRequest) -> None:
    values = request.getfixturevalue(which)
    low, high = mse(histogram_of(values))
    limits = np.linspace(1.0, 0.1, 64) * np.abs(values).max()
    errors = [
        ((values - quantized(values, max(values.min(), -limit), min(values.max(), limit))) ** 2).mean()
        for limit in limits
    ]
    assert ((values - quantized(values, low, high)) ** 2).mean() <= 1.05 * min(errors)


@pytest.mark.parametrize("choose", [percentile, entropy])
def test_one_far_outlier_does_not_set_the_range(choose: Callable[[Histogram], tuple[float, float]]) -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[17] = 60.0
    _, high = choose(histogram_of(values))
    assert 2.0 < high < 12.0


def test_entropy_agrees_with_a_plain_implementation(rectified: np.ndarray) -> None:
    histogram = histogram_of(rectified)
    counts = histogram.counts.astype(float)
    counts[0] = counts[1]
    best, limit = np.inf, 0.0
    for end in range(255, int(np.flatnonzero(counts)[-1]) + 17, 16):
        p = counts[:end].copy()
        q = np.zeros(len(p))
        group = np.array([i * 255 // end for i in range(len(p))])
        for g in range(255):
            members = np.flatnonzero((group == g) & (p > 0))
            if len(members):
                q[members] = p[members].sum() / len(members)
        p[-1] += counts[end:].sum()
        p, q = p / p.sum(), q / q.sum()
        mask = p > 0
        divergence = (p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-10))).sum()
        if divergence < best:
            best, limit = divergence, end * histogram.width
    assert entropy(histogram)[1] == pytest.approx(min(limit, histogram.high))


@pytest.mark.parametrize("method", CALIBRATORS)
def test_a_dead_activation_has_an_empty_range(method: str) -> None:
    assert CHOOSERS[method](histogram_of(np.zeros(100))) == (0.0, 0.0)
