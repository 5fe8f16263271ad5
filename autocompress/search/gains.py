"""What points add to a front, in the terms that decide what is tried next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autocompress.core.pareto import hypervolume, non_dominated_mask

#: The gap to the best quality, in allowed losses, at which half of a point's worth is gone.
_HALF_WORTH = 2.0

#: Points whose exact volume is asked for where there are more than two objectives.
_MOST_VOLUMES = 48


def volume_gains(
    front: NDArray[np.float64], points: NDArray[np.float64], reach: NDArray[np.float64], allowed: float
) -> NDArray[np.float64]:
    """Hypervolume that each point adds to a front on its own.

    Gaps count by ``g / (g + g_half)``: among points that lose far too much one that loses less is worth little.

    Args:
        front: ``(n_front, n_objectives)`` the gap to the best quality, at least 0, then the other losses.
        points: ``(n_points, n_objectives)`` likewise, each on its own.
        reach: ``(n_known, n_objectives)`` what the other losses are scaled by: their range in the front and these.
        allowed: loss of quality that is allowed, in the gaps' unit.

    Returns:
        ``(n_points,)``, at least 0.
    """
    every = np.vstack([front, reach])[:, 1:]
    low = every.min(0)
    span = np.maximum(every.max(0) - low, 1e-12)
    largest = max(float(_worth(np.vstack([front, reach])[:, 0], allowed).max()), 1e-12)

    def scaled(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([_worth(losses[:, 0], allowed) / largest, (losses[:, 1:] - low) / span])

    known, then = scaled(front), scaled(points)
    edge = np.full(front.shape[1], 1.1)
    if len(edge) == 2:
        return _areas(known[non_dominated_mask(known)], then, edge)
    # Volumes are dear with many objectives: those that cannot join are not asked for, nor the least promising.
    beaten = np.any(np.all(known[None] <= then[:, None], axis=-1), axis=1)
    gains = np.zeros(len(then))
    able = np.flatnonzero(~beaten)
    if len(able) > _MOST_VOLUMES:
        able = able[np.argsort(-_promise(known, then[able], edge), kind="stable")[:_MOST_VOLUMES]]
    for index in able:
        # Of the point's own box, what the front leaves (While et al. 2012, "A fast way of calculating exact
        # hypervolumes", section III): most of the front falls together at the box.
        inside = np.unique(np.maximum(known, then[index]), axis=0)
        covered = hypervolume(inside[non_dominated_mask(inside)], edge)
        gains[index] = max(0.0, float(np.prod(np.maximum(edge - then[index], 0.0))) - covered)
    return gains


def _promise(front: NDArray[np.float64], points: NDArray[np.float64], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n_points,)`` the least distance by which each point is better than each of the front's in some objective."""
    better = np.minimum(front, edge)[None] - points[:, None]
    found: NDArray[np.float64] = better.max(axis=-1).min(axis=-1)
    return found


def _areas(front: NDArray[np.float64], points: NDArray[np.float64], edge: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n_points,)`` area that each point adds to a front of two objectives: strips between the front's own points."""
    front = front[np.argsort(front[:, 0], kind="stable")]
    left = np.concatenate([[-np.inf], front[:, 0]])
    right = np.minimum(np.concatenate([front[:, 0], [np.inf]]), edge[0])
    floor = np.minimum(np.concatenate([[np.inf], front[:, 1]]), edge[1])
    width = np.maximum(right - np.maximum(left, points[:, :1]), 0.0)
    found: NDArray[np.float64] = (width * np.maximum(floor - points[:, 1:], 0.0)).sum(axis=1)
    return found


def _worth(gaps: NDArray[np.float64], allowed: float) -> NDArray[np.float64]:
    return gaps / (gaps + _HALF_WORTH * allowed)
