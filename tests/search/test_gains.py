"""What points add to a front."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.core.pareto import hypervolume, non_dominated_mask
from autocompress.search.gains import volume_gains


def _scaled(losses: np.ndarray, every: np.ndarray, allowed: float) -> np.ndarray:
    worth = losses[:, 0] / (losses[:, 0] + 2.0 * allowed)
    largest = (every[:, 0] / (every[:, 0] + 2.0 * allowed)).max()
    low, high = every[:, 1:].min(0), every[:, 1:].max(0)
    return np.column_stack([worth / largest, (losses[:, 1:] - low) / (high - low)])


@pytest.mark.parametrize("objectives", [2, 3])
def test_a_gain_is_the_hypervolume_with_a_point_less_that_without(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    every = rng.random((30, objectives))
    front = every[non_dominated_mask(every)]
    points = rng.random((40, objectives)) * 1.3 - 0.1
    points[:, 0] = np.abs(points[:, 0])
    found = volume_gains(front, points, every, 0.1)
    edge = np.full(objectives, 1.1)
    known, then = _scaled(front, every, 0.1), _scaled(points, every, 0.1)
    wanted = [hypervolume(np.vstack([known, point]), edge) - hypervolume(known, edge) for point in then]
    assert found == pytest.approx(np.array(wanted), abs=1e-12)
    assert found.max() > 0


def test_points_that_lose_far_too_much_gain_little_by_losing_less() -> None:
    front = np.array([[0.0, 1.0], [0.3, 0.2]])
    gains = volume_gains(front, np.array([[0.01, 0.5], [0.2, 0.2]]), front, 0.01)
    assert gains[0] > 3 * gains[1]
