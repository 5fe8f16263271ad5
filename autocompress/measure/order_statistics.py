"""Order statistics of a few values: quantiles, and intervals of a median that hold for any distribution.

Like :mod:`autocompress.measure.rounds` it runs on boards too: Python 3.6 or newer and the standard library.
"""

import math
from typing import List, Sequence, Tuple

_STRONGEST_CORRELATION = 0.8
_FEWEST_FOR_CORRELATION = 8


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Tuple[float, float]:
    """Order-statistic interval of the median, interpolated between ranks (Hettmansperger and Sheather 1986).

    Args:
        values: ``(n,)``; where n is too small for the confidence the interval is their whole range.
        confidence: share of such intervals that hold the true median.
    """
    ordered = sorted(values)
    count = len(ordered)
    rank, share = _rank(count, confidence)
    low, high = ordered[rank - 1], ordered[count - rank]
    if share > 0.0:
        low += share * (ordered[rank] - low)
        high -= share * (high - ordered[count - rank - 1])
    return low, high


def correlated_interval(values: Sequence[float], confidence: float = 0.95) -> Tuple[float, float]:
    """The same for values in order of time, widened where neighbours are alike."""
    middle = quantile(sorted(values), 0.5)
    low, high = median_interval(values, confidence)
    widening = _widening(values, middle)
    return middle - (middle - low) * widening, middle + (high - middle) * widening


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which a ``share`` of the sorted values lies, linear between two of them."""
    index, rest = divmod(share * (len(ordered) - 1), 1.0)
    low = ordered[int(index)]
    return low + (ordered[min(int(index) + 1, len(ordered) - 1)] - low) * rest


def mean(values: Sequence[float]) -> float:
    """Their arithmetic mean."""
    return sum(values) / len(values)


def _rank(count: int, confidence: float) -> Tuple[int, float]:
    """Rank of the interval's lower end, from 1, and how far to go to the next one."""
    coverage: List[float] = []
    below, all_ways = 0.0, math.lgamma(count + 1) - count * math.log(2.0)
    for rank in range(1, (count + 1) // 2 + 1):
        # The interval from the rank-th smallest to the rank-th largest misses with P(Binomial(n, 1/2) < rank), twice.
        below += math.exp(all_ways - math.lgamma(rank) - math.lgamma(count - rank + 2))
        coverage.append(1.0 - 2.0 * below)
        if coverage[-1] < confidence:
            break
    last = len(coverage)
    if last == 1 or coverage[-1] >= confidence:
        return last, 0.0
    outer, inner, rank = coverage[-2], coverage[-1], last - 1
    share = (outer - confidence) / (outer - inner)
    return rank, (count - rank) * share / (rank + (count - 2 * rank) * share)


def _widening(values: Sequence[float], middle: float) -> float:
    count = len(values)
    if count < _FEWEST_FOR_CORRELATION:
        return 1.0
    apart = [value - middle for value in values]
    typical = 1.4826 * quantile(sorted(abs(value) for value in apart), 0.5)
    if typical <= 0.0:
        return 1.0
    # Single outliers neither make nor hide a correlation.
    clipped = [min(max(value / typical, -2.5), 2.5) for value in apart]
    middle = mean(clipped)
    clipped = [value - middle for value in clipped]
    square = sum(value * value for value in clipped)
    found = sum(a * b for a, b in zip(clipped, clipped[1:])) / square if square > 0.0 else 0.0
    # An estimate from n values is about 1 / n too low.
    r = min(max(found + 1.0 / count, 0.0), _STRONGEST_CORRELATION)
    return math.sqrt((1.0 + r) / (1.0 - r))
