"""What a search optimizes and what it must respect."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocompress.core.errors import UnknownNameError, UserError

#: Every metric a trial may carry: its unit and whether more is better.
METRICS: dict[str, tuple[str, bool]] = {
    "accuracy": ("1", True),
    "fidelity": ("1", True),
    "latency_ms": ("ms", False),
    "size_bytes": ("bytes", False),
    "energy_mj": ("mJ", False),
    "peak_memory_bytes": ("bytes", False),
    "macs": ("1", False),
}
QUALITY_METRICS = ("accuracy", "fidelity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One metric to optimize, in its natural direction."""

    metric: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UnknownNameError("objective", self.metric, METRICS)

    @property
    def unit(self) -> str:
        """Unit of the metric; ``"1"`` for a share."""
        return METRICS[self.metric][0]

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return METRICS[self.metric][1]

    def loss(self, value: float) -> float:
        """The value with its sign turned so that less is better."""
        return -value if self.maximize else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A bound on a metric.

    Args:
        metric: one of :data:`METRICS`.
        bound: largest value allowed, or smallest where more is better.
    """

    metric: str
    bound: float

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UnknownNameError("constraint", self.metric, METRICS)
        if not math.isfinite(self.bound):
            raise UserError(f"The bound on {self.metric} must be finite, but got {self.bound}.")

    def violation(self, value: float) -> float:
        """How far ``value`` is past the bound; 0 or less where it is respected."""
        return self.bound - value if METRICS[self.metric][1] else value - self.bound

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if METRICS[self.metric][1] else '<='} {self.bound:g}"
