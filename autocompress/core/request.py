"""What a search is asked, how it is watched, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from autocompress.core.errors import UserError
from autocompress.core.measurement import Provenance
from autocompress.core.objective import Objective
from autocompress.core.pareto import ParetoFront
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """One search, as the user asked for it.

    Args:
        model: ``demo``, ``pkg.module:factory``, ``file.py:factory``, a ``.pt2`` or an ``.onnx`` file.
        data: ``demo``, ``fashion-mnist``, ``npz:FILE``, ``imagefolder:DIR``, ``pkg.module:factory``,
            ``file.py:factory``.
        target: name of a hardware profile; ``local`` is this machine.
        device: URL of an attached device; None for none.
        runtime: one of the target's; None for its default.
        space: name or path of a search space template.
        objectives: metric names, the quality metric first.
        max_accuracy_drop: largest loss against the uncompressed model, as a share (0.01 is one point).
        max_latency_ms: bound on latency, milliseconds.
        max_size_mb: bound on the artifact, 10^6 bytes.
        max_memory_mb: bound on peak memory, 10^6 bytes.
        max_energy_mj: bound on the energy of an inference, millijoules.
        trials: when to stop; None for no limit.
        budget_seconds: when to stop; None for no limit.
        sampler: name of a sampler.
        seed: of everything that is random.
        out: run folder; None picks one under ``runs/``.
        threads: of the runtime; None for the profile's.
        affinity: processor cores to measure on; None for all.
        tune_trials: schedules to time for each kernel that has none, where the runtime compiles; None for its usual.
        tune_budget_seconds: for all tuning, which does not count in ``budget_seconds``; None for no limit.
        cache: whether a measurement of the same files on the same machine may be taken from the user's cache.
    """

    model: str = "demo"
    data: str = "demo"
    target: str = "local"
    device: str | None = None
    runtime: str | None = None
    space: str = "default"
    objectives: tuple[str, ...] = ("accuracy", "latency_ms")
    max_accuracy_drop: float | None = None
    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    max_memory_mb: float | None = None
    max_energy_mj: float | None = None
    trials: int | None = None
    budget_seconds: float | None = None
    sampler: str = "tpe"
    seed: int = 0
    out: Path | None = None
    threads: int | None = None
    affinity: tuple[int, ...] | None = None
    tune_trials: int | None = None
    tune_budget_seconds: float | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        bounds = ("max_latency_ms", "max_size_mb", "max_memory_mb", "max_energy_mj")
        for name in (*bounds, "trials", "budget_seconds", "threads", "tune_budget_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"`{name}` must be more than 0, but got {value!r}.")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop <= 1:
            raise UserError(
                f"`max_accuracy_drop` must be a share between 0 and 1 (0.01 is one point), "
                f"but got {self.max_accuracy_drop!r}."
            )
        if self.tune_trials is not None and self.tune_trials < 0:
            raise UserError(f"`tune_trials` must be at least 0, but got {self.tune_trials}.")
        if self.seed < 0:
            raise UserError(f"`seed` must be at least 0, but got {self.seed}.")
        if len(self.objectives) < 1 or len(set(self.objectives)) != len(self.objectives):
            raise UserError(f"`objectives` must name different metrics, but got {list(self.objectives)!r}.")
        for metric in self.objectives:
            Objective(metric=metric)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML values."""
        values = asdict(self)
        values["objectives"] = list(self.objectives)
        values["affinity"] = None if self.affinity is None else list(self.affinity)
        values["out"] = None if self.out is None else str(self.out)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """What a search found.

    Args:
        run_dir: the run folder.
        front: of the complete trials that respect the constraints, or of the nearest to them.
        trials: all of the run, in order.
        recommended: title, such as ``fastest within the accuracy limit``, to trial.
        metric: the quality metric, ``accuracy`` or ``fidelity``.
        provenance: of the latencies.
        baseline: the trial of the uncompressed model.
        messages: remarks for the user, such as why the search stopped.
    """

    run_dir: Path
    front: ParetoFront
    trials: Sequence[Trial]
    recommended: Mapping[str, Trial]
    metric: str
    provenance: Provenance
    baseline: Trial
    messages: list[str] = field(default_factory=list)


class SearchObserver(Protocol):
    """Watches a search, and may ask it to stop."""

    def on_message(self, text: str) -> None:
        """One line for the user."""

    def on_space(self, space: SearchSpace, baseline: Mapping[str, Any]) -> None:
        """The choices and the uncompressed model's figures, before anything is spent."""

    def on_stage(self, number: int, label: str, stage: str) -> None:
        """A trial, or with number -1 the run itself, begins a stage."""

    def on_trial(
        self, trial: Trial, front: ParetoFront, hypervolume: float, elapsed: float, budget: float | None
    ) -> None:
        """A trial ended; ``elapsed`` and ``budget`` are seconds."""

    def on_done(self, outcome: SearchOutcome) -> None:
        """The search ended and everything is on disk."""

    def should_stop(self) -> bool:
        """Whether to stop after the running stage."""


class SilentObserver:
    """Watches nothing and never stops a search."""

    def on_message(self, text: str) -> None:
        """Ignore it."""

    def on_space(self, space: SearchSpace, baseline: Mapping[str, Any]) -> None:
        """Ignore it."""

    def on_stage(self, number: int, label: str, stage: str) -> None:
        """Ignore it."""

    def on_trial(
        self, trial: Trial, front: ParetoFront, hypervolume: float, elapsed: float, budget: float | None
    ) -> None:
        """Ignore it."""

    def on_done(self, outcome: SearchOutcome) -> None:
        """Ignore it."""

    def should_stop(self) -> bool:
        """Never."""
        return False
