"""Tiles of one loop for another of a different extent."""

from __future__ import annotations

import math
from collections.abc import Sequence


def nearest_tiles(extent: int, factors: Sequence[int], largest_inner: int) -> list[int]:
    """Factors of ``extent``, each but the first as near as its divisors allow to what it was, the innermost first.

    Args:
        extent: their product.
        factors: of another extent.
        largest_inner: bound of the innermost.
    """
    rest, found = extent, []
    for place, factor in enumerate(reversed(factors[1:])):
        bound = largest_inner if place == 0 and largest_inner > 0 else rest
        divisors = [d for d in range(1, rest + 1) if rest % d == 0 and d <= bound]
        best = min(divisors, key=lambda d: abs(math.log(d / factor)))
        found.append(best)
        rest //= best
    return [rest, *reversed(found)]
