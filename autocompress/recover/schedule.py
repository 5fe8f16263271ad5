"""Learning rates over the steps of a training run."""

from __future__ import annotations

import math

#: Steps that the rate rises.
WARM_UP = 4
#: Share of the steps, at the end, that the rate falls.
COOL_DOWN = 0.4


def stable_until(steps: int) -> int:
    """Steps of a run of ``steps`` after which its rate begins to fall; until then every longer run takes the same."""
    return round(steps * (1.0 - COOL_DOWN))


def trapezoid(step: int, steps: int) -> float:
    """Share of the peak learning rate at one step: a short linear warm-up, the peak, then ``1 - sqrt`` towards 0.

    Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", section 3: as
    good as a cosine, and a longer run goes on from the stable part of a shorter one.

    Args:
        step: counted from 0.
        steps: of the whole run; a step past it gives the last step's rate.

    Returns:
        A factor in ``(0, 1]``.
    """
    rising = min(1.0, (step + 1) / WARM_UP)
    start = stable_until(steps)
    if step < start:
        return rising
    return rising * (1.0 - math.sqrt((min(step, steps - 1) - start + 1) / (steps - start + 1)))
