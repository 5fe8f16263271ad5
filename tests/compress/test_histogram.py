"""Streaming histograms against counting everything at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autocompress.compress.histogram import BINS, Histogram

FLOATS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1000, 1000, width=32))


@given(st.lists(FLOATS, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_every_value_is_counted_and_extremes_are_exact(batches: list[np.ndarray]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    everything = np.concatenate(batches)
    assert histogram.counts.sum() == histogram.total == everything.size
    assert (histogram.low, histogram.high) == (everything.min(), everything.max())
    assert histogram.edges()[0] <= histogram.low
    assert histogram.edges()[-1] >= histogram.high * (1 - 1e-6)


def test_bins_after_growth_are_those_of_counting_at_once() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(scale=s, size=5000).astype(np.float32) for s in (0.1, 1, 7, 2)]
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    counts, _ = np.histogram(np.concatenate(parts).astype(np.float64), bins=histogram.edges())
    # float32 places a value that lies on an edge on either side.
    assert np.abs(counts - histogram.counts).sum() <= 20


def test_zero_stays_on_an_edge_when_negatives_come_late() -> None:
    histogram = Histogram()
    histogram.add(np.array([0.5, 1.0], np.float32))
    assert histogram.start == 0.0
    histogram.add(np.array([-3.0, 9.0], np.float32))
    assert np.isclose(histogram.edges(), 0.0, atol=1e-12).any()


def test_magnitudes_fold_both_signs_together() -> None:
    histogram = Histogram()
    histogram.add(np.array([-1.0, 1.0, -2.0, 2.0, 2.0], np.float32))
    magnitudes = histogram.magnitudes()
    assert magnitudes.sum() == 5
    assert sorted(magnitudes[magnitudes > 0]) in ([2, 3], [1, 1, 3], [1, 2, 2], [1, 1, 1, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_remembered(bad: float) -> None:
    histogram = Histogram()
    histogram.add(np.array([0.0, bad], np.float32))
    histogram.add(np.array([1.0], np.float32))
    assert not histogram.finite


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    for scale in range(1, 50):
        histogram.add(np.full(100, scale, np.float32))
    assert histogram.counts.shape == (BINS,)
