"""A histogram of fixed memory for numbers whose range is not known beforehand."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BINS = 2048
_LEAST = 1e-8
#: Least weight of a new batch in the moving average of the extremes.
AVERAGING = 0.1
#: Values worked on at a time: what the nearest caches hold.
_CHUNK = 1 << 16


class Histogram:
    """Equal bins over a range that grows by merging pairs of bins; zero always lies on an edge.

    Attributes:
        counts: ``(BINS,)`` values seen in each bin.
        start: left edge of the first bin.
        width: of a bin.
        low: smallest value seen, exactly.
        high: largest value seen, exactly.
        total: values seen.
        average: moving averages of the batches' smallest and largest values: each new batch weighs :data:`AVERAGING`,
            the first few as much as one another.
        batches: how often values were added.
    """

    __slots__ = ("average", "batches", "counts", "high", "low", "start", "total", "width")

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.start = 0.0
        self.width = 0.0
        self.low = math.inf
        self.high = -math.inf
        self.total = 0
        self.average = (0.0, 0.0)
        self.batches = 0

    def add(self, values: NDArray[np.float32], *, count: bool = True) -> None:
        """Add values of any shape.

        Args:
            values: finite, or the extremes will not be.
            count: without it only the extremes are kept.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        # NaN loses every comparison: it has to be carried over explicitly.
        self.low = min(self.low, low) if low == low else low
        self.high = max(self.high, high) if high == high else high
        self.batches += 1
        share = max(AVERAGING, 1 / self.batches)
        self.average = (
            self.average[0] + share * (low - self.average[0]),
            self.average[1] + share * (high - self.average[1]),
        )
        if not count or not math.isfinite(low) or not math.isfinite(high):
            return
        self._cover(low, high)
        flat = values.reshape(-1)
        start, scale = np.float32(self.start), np.float32(1 / self.width)
        for first in range(0, flat.size, _CHUNK):
            place = flat[first : first + _CHUNK] - start
            place *= scale
            np.minimum(place, BINS - 1, out=place)
            self.counts += np.bincount(place.astype(np.uint16), minlength=BINS)
        self.total += values.size

    @property
    def finite(self) -> bool:
        """Whether neither NaN nor infinity was seen."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def edges(self) -> NDArray[np.float64]:
        """``(BINS + 1,)`` edges of the bins."""
        return np.asarray(self.start + self.width * np.arange(BINS + 1), np.float64)

    def magnitudes(self) -> NDArray[np.int64]:
        """Counts by absolute value, in bins of ``width`` from zero on."""
        zero = round(-self.start / self.width) if self.width else 0
        positive, negative = self.counts[zero:], self.counts[:zero][::-1]
        result = np.zeros(max(len(positive), len(negative)), np.int64)
        result[: len(positive)] += positive
        result[: len(negative)] += negative
        return result

    def _cover(self, low: float, high: float) -> None:
        """Grow until ``[low, high]`` lies inside; at first with room for later batches, which reach further."""
        if self.width == 0.0:
            peak = max(-low, high, _LEAST) * 1.25
            self.start = -peak if low < 0 else 0.0
            self.width = (peak - self.start) / BINS
        while low < self.start or high > self.start + self.width * BINS:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros(BINS, np.int64)
            if low < self.start:
                self.counts[BINS // 2 :] = merged
                self.start -= self.width * BINS
            else:
                self.counts[: BINS // 2] = merged
            self.width *= 2
