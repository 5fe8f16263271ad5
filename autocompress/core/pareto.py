"""Dominance, hypervolume and the front."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import UnknownNameError, UserError
from autocompress.core.objective import METRICS, Constraint, Objective
from autocompress.core.trial import Trial, TrialState

#: Trials shown where no trial respects the constraints.
NEAREST_MISSES = 3
_CLAUSE = re.compile(r"^\s*([a-z_]+)\s*(<=|>=|==|<|>)\s*([-+0-9.eE]+)\s*$")


def non_dominated_mask(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    Args:
        losses: ``(n_points, n_objectives)``; every objective is minimized and finite.

    Returns:
        ``(n_points,)`` mask; equal points are all kept.

    Raises:
        ValueError: a loss is not finite.
    """
    if not np.isfinite(losses).all():
        raise ValueError("Losses must be finite.")
    mask = np.ones(len(losses), bool)
    for i, point in enumerate(losses):
        mask[i] = not ((losses <= point).all(1) & (losses < point).any(1)).any()
    return mask


def hypervolume(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Volume dominated by the points and bounded by the reference.

    Slices along the last objective and recurses (hypervolume by slicing objectives, While et al. 2006, section 3).

    Args:
        losses: ``(n_points, n_objectives)``, minimized.
        reference: ``(n_objectives,)``; points not strictly better in every objective count nothing.
    """
    points = losses[(losses < reference).all(1)] if len(losses) else losses
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    if points.shape[1] == 2:
        first, second = points[np.argsort(points[:, 0], kind="stable")].T
        widths = np.append(first[1:], reference[0]) - first
        return float((widths * (reference[1] - np.minimum.accumulate(second))).sum())
    points = points[np.argsort(points[:, -1], kind="stable")]
    edges = np.append(points[1:, -1], reference[-1])
    volume = 0.0
    for i, (low, high) in enumerate(zip(points[:, -1], edges, strict=True)):
        if high > low:
            head = points[: i + 1, :-1]
            # Two objectives need no front.
            head = head if head.shape[1] == 2 else head[non_dominated_mask(head)]
            volume += (high - low) * hypervolume(head, reference[:-1])
    return volume


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront:
    """The complete trials that no other complete trial dominates.

    Args:
        objectives: in the order the user gave them.
        trials: non-dominated, best first in the last objective.
    """

    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], objectives: Sequence[Objective]) -> ParetoFront:
        """Pick the front out of ``trials``.

        Raises:
            ValueError: a metric is measured in one trial and estimated in another.
        """
        done = [t for t in trials if t.state is TrialState.COMPLETE]
        for objective in objectives:
            kinds = {t.measurements[objective.metric].provenance for t in done}
            if len(kinds) > 1:
                raise ValueError(f"{objective.metric} is measured in some trials and estimated in others.")
        if not done:
            return cls(objectives=tuple(objectives), trials=())
        losses = loss_matrix(done, objectives)
        mask = non_dominated_mask(losses)
        chosen = [i for i in np.lexsort(losses.T) if mask[i]]
        unique = {losses[i].tobytes(): i for i in reversed(chosen)}
        return cls(
            objectives=tuple(objectives), trials=tuple(done[i] for i in chosen if unique[losses[i].tobytes()] == i)
        )

    def pick(self, expression: str) -> Trial:
        """The best trial that satisfies every clause.

        Args:
            expression: clauses such as ``latency_ms<5`` joined by ``and`` or commas; a bare trial number picks it;
                ``fastest``, ``best`` (quality) and ``smallest`` name extremes. Of the trials left, the one with the
                best first objective that no clause bounds is taken.

        Raises:
            UserError: a clause cannot be read, or no trial satisfies them (the nearest miss is named).
        """
        if not self.trials:
            raise UserError("The front is empty: no trial completed.")
        text = expression.strip()
        if re.fullmatch(r"#?\d+", text):
            number = int(text.lstrip("#"))
            for trial in self.trials:
                if trial.number == number:
                    return trial
            raise UnknownNameError("front trial", str(number), [str(t.number) for t in self.trials])
        extremes = {"fastest": "latency_ms", "smallest": "size_bytes", "best": self.objectives[0].metric}
        if text in extremes:
            metric = extremes[text]
            sign = -1.0 if METRICS[metric][1] else 1.0
            return min(self.trials, key=lambda t: sign * t.value(metric))
        clauses = [_clause(part, self.trials[0]) for part in re.split(r",|\band\b|&&?", text)]
        fitting = [t for t in self.trials if all(_holds(t, clause) for clause in clauses)]
        if not fitting:
            metric, operator, bound = next(c for c in clauses if not any(_holds(t, c) for t in self.trials)) if any(
                not any(_holds(t, c) for t in self.trials) for c in clauses
            ) else clauses[0]  # fmt: skip
            close = min(self.trials, key=lambda t: abs(t.value(metric) - bound))
            raise UserError(
                f"No trial on the front has {expression.strip()}; the nearest is trial {close.number} "
                f"with {metric} = {close.value(metric):g} ({operator} {bound:g} was asked)."
            )
        bounded = {metric for metric, _, _ in clauses}
        free = [o for o in self.objectives if o.metric not in bounded] or list(self.objectives)
        return min(fitting, key=lambda t: free[0].loss(t.value(free[0].metric)))

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Hypervolume against ``reference``, given in the objectives' natural directions."""
        point = np.array([o.loss(r) for o, r in zip(self.objectives, reference, strict=True)])
        return hypervolume(loss_matrix(self.trials, self.objectives), point)


def constrained_front(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> tuple[ParetoFront, bool]:
    """The front of the trials that respect every constraint; where none does, the trials that miss them by least.

    Args:
        trials: of any state; only complete ones count.
        objectives: what dominates what.
        constraints: a trial without a constraint's metric breaks it.

    Returns:
        The front and whether its trials respect the constraints. Nearest misses are at most :data:`NEAREST_MISSES`,
        by the sum of their violations as shares of the bounds.
    """
    done = [t for t in trials if t.state is TrialState.COMPLETE]
    misses = [miss(t, constraints) for t in done]
    fitting = [t for t, miss in zip(done, misses, strict=True) if miss <= 0]
    if fitting or not done:
        return ParetoFront.of(fitting, objectives), True
    order = np.argsort(np.array(misses), kind="stable")[:NEAREST_MISSES]
    nearest = [done[i] for i in order]
    losses = loss_matrix(nearest, objectives)
    return ParetoFront(objectives=tuple(objectives), trials=tuple(nearest[i] for i in np.lexsort(losses.T))), False


def miss(trial: Trial, constraints: Sequence[Constraint]) -> float:
    """By how much a trial breaks constraints: the sum of its violations as shares of the bounds; 0 where it fits."""
    return sum(_miss(trial, constraint) for constraint in constraints)


def _miss(trial: Trial, constraint: Constraint) -> float:
    if constraint.metric not in trial.measurements:
        return float("inf")
    return max(0.0, constraint.violation(trial.value(constraint.metric))) / max(abs(constraint.bound), 1e-12)


def loss_matrix(trials: Sequence[Trial], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """``(n_trials, n_objectives)`` losses, every column minimized."""
    rows = [[o.loss(t.value(o.metric)) for o in objectives] for t in trials]
    return np.array(rows, float).reshape(len(rows), len(objectives))


def _clause(text: str, example: Trial) -> tuple[str, str, float]:
    match = _CLAUSE.match(text)
    if match is None:
        raise UserError(f"Cannot read {text.strip()!r}; write a clause such as 'latency_ms<5' or 'accuracy>=0.92'.")
    metric, operator, number = match.groups()
    if metric not in example.measurements:
        raise UnknownNameError("metric", metric, example.measurements)
    try:
        return metric, operator, float(number)
    except ValueError:
        raise UserError(f"{number!r} in {text.strip()!r} is not a number.") from None


def _holds(trial: Trial, clause: tuple[str, str, float]) -> bool:
    metric, operator, bound = clause
    value = trial.value(metric)
    return {
        "<": value < bound,
        "<=": value <= bound,
        ">": value > bound,
        ">=": value >= bound,
        "==": value == bound,
    }[operator]
