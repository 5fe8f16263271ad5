"""How sure a share of trials is."""

from __future__ import annotations

import math

from autocompress.core.measurement import Interval

_Z95 = 1.959963984540054


def wilson(mean: float, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a share (Wilson 1927; formula 4 of Brown, Cai and DasGupta 2001).

    For scores between 0 and 1 that are not just 0 or 1 it is too wide rather than too narrow: their variance is at
    most that of a share with the same mean.

    Args:
        mean: in ``[0, 1]``.
        n: samples.
        confidence: 0.95 only.
    """
    if confidence != 0.95:
        raise ValueError(f"Only a confidence of 0.95 is known, but got {confidence}.")
    z2 = _Z95**2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))
    return Interval(low=max(0.0, min(mean, centre - half)), high=min(1.0, max(mean, centre + half)))
