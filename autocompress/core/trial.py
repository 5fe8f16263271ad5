"""One evaluated candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from autocompress.core.measurement import Measurement
from autocompress.core.plan import CompressionPlan


class TrialState(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a sampler proposes.

    Args:
        plan: what to do to the graph.
        source: who proposed it: ``baseline``, ``recipe``, ``sensitivity``, or the sampler's name.
        assignment: choice name to chosen option of the search space; empty for plans from outside the space.
        label: short name for tables, such as ``int8`` or ``prune 30% + int8``.
    """

    plan: CompressionPlan
    source: str
    assignment: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate with what became of it.

    Args:
        number: as in the study.
        candidate: what was proposed.
        state: COMPLETE with every objective measured; PRUNED stopped early; FAIL with its reason.
        measurements: metric name to measurement; a PRUNED trial has those that were taken.
        error: reason of FAIL or PRUNED.
        stage_seconds: seconds spent in each stage.
    """

    number: int
    candidate: Candidate
    state: TrialState
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    error: str | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.state is not TrialState.COMPLETE and not self.error:
            raise ValueError(f"A {self.state} trial must say why.")

    @property
    def plan(self) -> CompressionPlan:
        """The candidate's plan."""
        return self.candidate.plan

    def value(self, metric: str) -> float:
        """Value of one metric; KeyError where it was not taken."""
        return self.measurements[metric].value

    def replace(self, **changes: Any) -> Trial:
        """A copy with some fields changed."""
        return replace(self, **changes)
