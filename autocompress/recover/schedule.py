"""Learning rates over the steps of a training run."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, *, warm_up: float = 0.1) -> float:
    """Share of the peak learning rate at one step: a linear warm-up, then half a cosine to 0.

    Loshchilov and Hutter 2017, "SGDR", equation 5, with one period and after a linear warm-up.

    Args:
        step: counted from 0.
        steps: of the whole run; a step past it gives the last step's rate.
        warm_up: share of the steps that the rate rises.

    Returns:
        A factor in ``(0, 1]``.
    """
    rising = round(steps * warm_up)
    if step < rising:
        return (step + 1) / rising
    done = (min(step, steps - 1) - rising) / max(1, steps - rising)
    return 0.5 * (1.0 + math.cos(math.pi * done))
