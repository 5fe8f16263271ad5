"""How a search got on: the hypervolume after each trial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autocompress.core.objective import QUALITY_METRICS, Objective
from autocompress.core.pareto import hypervolume, loss_matrix, non_dominated_mask
from autocompress.core.trial import Trial, TrialState

#: Loss of quality, as a share, at which a point counts nothing.
WORST_LOSS = 0.10
#: Multiple of the uncompressed model's cost at which a point counts nothing.
WORST_COST = 1.1


def reference_point(objectives: Sequence[Objective], baseline: Trial) -> tuple[float, ...]:
    """Where a point counts nothing: ten points of quality under the uncompressed model, or 1.1 times its cost.

    Returns:
        One value an objective, in its natural direction.
    """
    point = []
    for objective in objectives:
        value = baseline.value(objective.metric)
        if objective.metric in QUALITY_METRICS:
            point.append(value - WORST_LOSS)
        else:
            point.append(value / WORST_COST if objective.maximize else value * WORST_COST)
    return tuple(point)


def hypervolume_share(trials: Sequence[Trial], objectives: Sequence[Objective], baseline: Trial) -> float:
    """Hypervolume of the complete trials as a share of the box from :func:`reference_point` to the ideal.

    The ideal is a quality of 1 at no cost, so the share lies in [0, 1) and runs of one model can be compared.
    """
    done = [t for t in trials if t.state is TrialState.COMPLETE]
    if not done:
        return 0.0
    reference = np.array(
        [o.loss(r) for o, r in zip(objectives, reference_point(objectives, baseline), strict=True)], float
    )
    losses = loss_matrix(done, objectives)
    return hypervolume(losses[non_dominated_mask(losses)], reference) / _box(objectives, reference)


def hypervolume_history(
    trials: Sequence[Trial], objectives: Sequence[Objective], baseline: Trial
) -> list[tuple[int, float]]:
    """``(trial number, share)`` after each trial in order of number; trials that did not complete change nothing."""
    ordered = sorted(trials, key=lambda t: t.number)
    front: list[Trial] = []
    share = 0.0
    history = []
    for trial in ordered:
        if trial.state is TrialState.COMPLETE:
            front.append(trial)
            mask = non_dominated_mask(loss_matrix(front, objectives))
            front = [t for t, keep in zip(front, mask, strict=True) if keep]
            share = hypervolume_share(front, objectives, baseline)
        history.append((trial.number, share))
    return history


def _box(objectives: Sequence[Objective], reference: np.ndarray) -> float:
    ideal = [o.loss(1.0 if o.metric in QUALITY_METRICS else 0.0) for o in objectives]
    return float(np.prod(reference - np.array(ideal, float)))
