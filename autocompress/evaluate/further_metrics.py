"""What else a candidate costs besides latency and size: peak memory and energy, measured or estimated."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import outline
from autocompress.core.errors import TargetError
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.plan import CompressionPlan
from autocompress.core.protocols import Batch, CostModel, Runtime
from autocompress.core.target import RuntimeSpec, Target
from autocompress.cost.energy import EnergyEstimate
from autocompress.cost.memory import MemoryEstimate
from autocompress.cost.roofline import Roofline
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.energy import energy_measurement, has_counter, open_counter, read_energy
from autocompress.measure.memory import memory_measurement, peak_memory
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.remote import RemoteOnnxRuntime

FURTHER_METRICS = ("energy_mj", "peak_memory_bytes")
#: Fresh processes a candidate: their peaks differ by less than a percent.
MEMORY_REPEATS = 3
#: Turns of a second each; as many idle ones come on top.
ENERGY_REPEATS = 3


class MetricScorer(Protocol):
    """Measures or estimates one metric of a candidate."""

    metric: str
    provenance: Provenance
    #: An estimate costs nothing, so it is taken before anything dear is done; a measurement comes last.
    early: bool

    def score(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """The metric of a candidate's graph and plan."""


class EstimatedMetric:
    """Asks a cost model.

    Args:
        metric: that the model estimates.
        model: from the uncompressed graph and a plan.
        compressor: of the uncompressed graph.
        said: how the model estimates, in a few words.
    """

    provenance = Provenance.ESTIMATED
    early = True

    def __init__(self, metric: str, *, model: CostModel, compressor: Compressor, said: str) -> None:
        self.metric = metric
        self.said = said
        self._model = model
        self._compressor = compressor

    def score(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """The estimate for ``plan``."""
        return self._model.estimate(*outline(self._compressor, plan))


class MeasuredMemory:
    """Peak memory of the file that would ship, in fresh processes on this machine.

    Args:
        threads: of one inference.
        sample: inputs, each ``(n, ...)``.
        target: name that the measurements carry.
        repeats: processes a candidate.
    """

    metric = "peak_memory_bytes"
    provenance = Provenance.MEASURED
    early = False

    def __init__(self, *, threads: int, sample: Batch | None, target: str, repeats: int = MEMORY_REPEATS) -> None:
        self._threads = threads
        self._sample = sample
        self._target = target
        self._repeats = repeats

    def score(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Save the graph and run it from there, as whoever deploys it does."""
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
            path = Path(folder) / "model.onnx"
            graph.save(path)
            return peak_memory(
                path, threads=self._threads, sample=self._sample, target=self._target, repeats=self._repeats
            )


class DeviceMemory:
    """Peak memory of a fresh process on an attached device.

    Args:
        runtime: of the device.
        target: name that the measurements carry.
        repeats: processes a candidate.
    """

    metric = "peak_memory_bytes"
    provenance = Provenance.MEASURED
    early = False

    def __init__(self, runtime: RemoteOnnxRuntime, *, target: str, repeats: int = MEMORY_REPEATS) -> None:
        self._runtime = runtime
        self._target = target
        self._repeats = repeats

    def score(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Send the graph and run it there."""
        artifact = self._runtime.build(graph)
        answers = [self._runtime.memory(artifact) for _ in range(self._repeats)]
        return memory_measurement(answers, target=self._target, about=self._runtime.describe())


class MeasuredEnergy:
    """Energy of an inference by this machine's counter, idle power subtracted.

    Args:
        runtime: loads the graph, with its threads and sample.
        sample: inputs, each ``(n, ...)``.
        target: name that the measurements carry.
        repeats: running turns a candidate.
    """

    metric = "energy_mj"
    provenance = Provenance.MEASURED
    early = False

    def __init__(
        self, runtime: OnnxRuntime, *, sample: Batch | None, target: str, repeats: int = ENERGY_REPEATS
    ) -> None:
        self._runtime = runtime
        self._sample = sample
        self._target = target
        self._repeats = repeats

    def score(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Run the graph for some seconds.

        Raises:
            TargetError: the counter is gone.
        """
        artifact = self._runtime.build(graph)
        call = artifact.bound_call(artifact.sample(self._sample))
        with open_counter() as counter:
            if counter is None:
                raise TargetError("The energy counter that was there when the search began cannot be read any more.")
            reading = read_energy(call, counter, repeats=self._repeats)
        return energy_measurement(reading, target=self._target, about=self._runtime.describe())


def metric_scorers(
    metrics: Sequence[str],
    *,
    compressor: Compressor,
    target: Target,
    spec: RuntimeSpec,
    timer: Runtime | None,
    threads: int,
    sample: Batch | None,
) -> list[MetricScorer]:
    """A scorer for each metric of :data:`FURTHER_METRICS` among ``metrics``: measured where that can be done.

    Args:
        metrics: of objectives and constraints; others are passed over.
        compressor: of the uncompressed graph.
        target: the hardware.
        spec: the runtime on it.
        timer: what times models there; None where nothing is attached.
        threads: of one inference.
        sample: inputs, each ``(n, ...)``.

    Raises:
        TargetError: a metric can neither be measured nor estimated.
    """
    return [
        _measured(metric, timer, target.name, threads, sample) or _estimated(metric, compressor, target, spec)
        for metric in FURTHER_METRICS
        if metric in metrics
    ]


def said_of(scorer: MetricScorer) -> str:
    """One line for the user: how a metric is known."""
    if scorer.provenance is Provenance.MEASURED:
        return {
            "peak_memory_bytes": "Peak memory is measured in fresh processes, less that of one without a model.",
            "energy_mj": "Energy is measured by this machine's counter, idle power subtracted.",
        }[scorer.metric]
    how = scorer.said if isinstance(scorer, EstimatedMetric) else "see its measurements"
    return {"peak_memory_bytes": "Peak memory", "energy_mj": "Energy"}[scorer.metric] + f" is ESTIMATED: {how}."


def _measured(
    metric: str, timer: Runtime | Any, target: str, threads: int, sample: Batch | None
) -> MetricScorer | None:
    if metric == "peak_memory_bytes":
        if isinstance(timer, OnnxRuntime):
            return MeasuredMemory(threads=threads, sample=sample, target=target)
        if isinstance(timer, RemoteOnnxRuntime):
            return DeviceMemory(timer, target=target)
    elif isinstance(timer, OnnxRuntime) and has_counter():
        return MeasuredEnergy(timer, sample=sample, target=target)
    return None


def _estimated(metric: str, compressor: Compressor, target: Target, spec: RuntimeSpec) -> MetricScorer:
    roofline = Roofline(target, spec)
    if metric == "energy_mj":
        how = "arithmetic and traffic, as no counter (RAPL, tegrastats) can be read"
        return EstimatedMetric(metric, model=EnergyEstimate(roofline), compressor=compressor, said=how)
    memory = MemoryEstimate(roofline)
    return EstimatedMetric(metric, model=memory, compressor=compressor, said=memory.said)
