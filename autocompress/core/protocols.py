"""The small interfaces through which the floors of the house meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.core.layer import LayerInfo, PruneGroup, SkipBlock
from autocompress.core.measurement import Measurement, PairedTiming, TimingPolicy
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.trial import Candidate, Trial

Batch = tuple[NDArray[Any], ...]


class Graph(Protocol):
    """What the floors above `graph/` need of a ModelGraph."""

    def layers(self) -> tuple[LayerInfo, ...]:
        """Layers in topological order."""

    def groups(self) -> tuple[PruneGroup, ...]:
        """Prune groups, blocked ones too."""

    def blocks(self) -> tuple[SkipBlock, ...]:
        """Residual blocks that can be skipped whole."""


class Dataset(Protocol):
    """Samples with random access; inputs in the order of the graph's inputs."""

    name: str
    labelled: bool

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> tuple[Batch, NDArray[Any] | None]:
        """Inputs, each ``(len(indices), ...)``, and labels ``(len(indices),)`` or None."""


class Artifact(Protocol):
    """A model that a runtime has loaded and can run."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""

    def run(self, inputs: Batch) -> list[NDArray[Any]]:
        """Outputs for one batch."""


class Runtime(Protocol):
    """A way to run a model on a device."""

    name: str

    def describe(self) -> Mapping[str, Any]:
        """Name, version, provider, threads and the device's fingerprint; JSON values."""

    def build(self, graph: Any) -> Artifact:
        """Load a ModelGraph or a path to an artifact, ready to run."""

    def time(self, candidate: Any, reference: Any, policy: TimingPolicy) -> PairedTiming:
        """Time two artifacts that :meth:`build` made, interleaved, on one sample."""


class CostModel(Protocol):
    """Estimates a metric without running anything."""

    def estimate(self, graph: Any, plan: CompressionPlan) -> Measurement:
        """Metric of ``plan`` applied to ``graph``; the provenance is ``estimated``."""


class Healer(Protocol):
    """Wins back accuracy that compression cost."""

    def heal(self, pruned: Any, plan: DistillationPlan, *, steps: int, start_step: int) -> Any:
        """Continue healing from ``start_step`` for ``steps`` steps; returns a graph with new weights."""


class Evaluator(Protocol):
    """Turns a candidate into a trial."""

    def evaluate(self, number: int, candidate: Candidate) -> Trial:
        """Never raises for a bad candidate: the trial says FAIL and why."""


class TrialStore(Protocol):
    """Keeps finished trials; what `append` returned from is on disk."""

    def append(self, trial: Trial) -> None:
        """Store one trial durably."""

    def trials(self) -> Sequence[Trial]:
        """Every stored trial in order of number."""
