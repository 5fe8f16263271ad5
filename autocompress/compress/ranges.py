"""From a histogram of an activation to the range that its integers should cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from autocompress.compress.histogram import Histogram

#: Share of the values that the percentile range holds.
PERCENTILE = 0.9999
#: They need extremes only, no counts.
EXTREMES = ("minmax", "moving_average")
_LEVELS = 255


def minmax(histogram: Histogram) -> tuple[float, float]:
    """The extremes."""
    return histogram.low, histogram.high


def moving_average(histogram: Histogram) -> tuple[float, float]:
    """The batches' extremes, averaged over time: an outlier of one batch moves them little.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
    section 3.1.
    """
    return histogram.average


def percentile(histogram: Histogram, share: float = PERCENTILE) -> tuple[float, float]:
    """The range that holds ``share`` of the values, as much cut off above as below; exact to one bin.

    Where no value is negative all of the cut is above.
    """
    edges, cumulative = histogram.edges(), np.cumsum(histogram.counts)
    cut = round((1 - share) * histogram.total)
    below = 0 if histogram.low >= 0 else cut // 2
    low = edges[np.searchsorted(cumulative, below, side="right")]
    high = edges[np.searchsorted(cumulative, histogram.total - (cut - below)) + 1]
    return max(histogram.low, float(low)), min(histogram.high, float(high))


def mse(histogram: Histogram, candidates: int = 64) -> tuple[float, float]:
    """The extremes, clipped at the absolute value with the least mean squared error of rounding and clipping.

    A value inside errs by ``step^2 / 12`` on average, as rounding errors are uniform (Widrow 1956), but zero by
    nothing; one outside errs by its distance.

    Args:
        histogram: with counts.
        candidates: clipping points tried, evenly from the largest absolute value to a tenth of it.
    """
    edges, counts = histogram.edges(), histogram.counts.copy()
    centers = (edges[:-1] + edges[1:]) / 2
    counts[np.argmin(np.abs(edges[:-1]))] = 0
    total = counts.sum()
    peak = max(-histogram.low, histogram.high)
    best, result = np.inf, minmax(histogram)
    for factor in np.linspace(1.0, 0.1, candidates):
        low, high = max(histogram.low, -factor * peak), min(histogram.high, factor * peak)
        low, high = min(0.0, low), max(0.0, high)
        beyond = np.maximum(centers - high, 0) + np.maximum(low - centers, 0)
        inside = total - counts[beyond > 0].sum()
        error = float((counts * beyond**2).sum() + inside * ((high - low) / _LEVELS) ** 2 / 12)
        if error < best:
            best, result = error, (low, high)
    return result


def entropy(histogram: Histogram, stride: int = 16) -> tuple[float, float]:
    """The range whose quantized distribution is nearest in Kullback-Leibler divergence.

    As TensorRT's calibrator (Migacz, "8-bit inference with TensorRT", GTC 2017): clip at more and more bins of the
    absolute value, move the outliers into the last bin, quantize the rest, compare. The bin at zero, which a Relu
    fills, counts as much as its neighbour, as in NVIDIA's pytorch-quantization: zero is exact at any range.

    Args:
        histogram: with counts.
        stride: bins between clipping points.
    """
    levels = _LEVELS if histogram.low >= 0 else 128
    counts = histogram.magnitudes().astype(np.float64)
    counts[0] = counts[1]
    filled = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    best, limit = np.inf, max(abs(histogram.low), abs(histogram.high))
    for end in range(levels, filled + stride, stride):
        inside = counts[:end]
        if not inside.any():
            continue
        reference = inside.copy()
        reference[-1] += counts[end:].sum()
        group = np.arange(len(inside)) * levels // end
        sums = np.bincount(group, inside, levels)
        filled_bins = np.bincount(group, inside > 0, levels)
        quantized = np.where(inside > 0, (sums / np.maximum(filled_bins, 1))[group], 0.0)
        divergence = _divergence(reference, quantized)
        if divergence < best:
            best, limit = divergence, end * histogram.width
    return max(histogram.low, -limit), min(histogram.high, limit)


def _divergence(reference: np.ndarray, quantized: np.ndarray) -> float:
    p, q = reference / reference.sum(), quantized / quantized.sum()
    mask = p > 0
    return float((p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-10))).sum())


#: Calibrator name to the function that chooses a range, ``(low, high)``.
CHOOSERS: Mapping[str, Callable[[Histogram], tuple[float, float]]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
