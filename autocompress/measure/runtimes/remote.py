"""ONNX Runtime on an attached device, through its agent."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import UserError
from autocompress.core.measurement import PairedTiming, TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.measure.device import Device, SentModel
from autocompress.measure.latency import model_file_bytes, model_files
from autocompress.measure.runtimes.loaded import LoadedModel
from autocompress.measure.runtimes.session import SPIN_MICROSECONDS
from autocompress.measure.runtimes.tensors import TensorSpec
from autocompress.measure.timing import paired_timing
from autocompress.measure.transports.agent_link import Part

MODEL_NAME = "model.onnx"
#: Loading the largest models from a card takes minutes.
_LOAD_SECONDS = 300.0
#: Past this a graph goes over from a file, as it would not fit into one protobuf.
_LARGEST_IN_MEMORY = 1 << 30


class SavedGraph(Protocol):
    """What of a ModelGraph this runtime reads."""

    def to_bytes(self) -> bytes:
        """The serialized model."""

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file, past 2 GB with its weights beside it."""

    def size_bytes(self) -> int:
        """Bytes of the file that ``save`` would write."""


class RemoteArtifact(LoadedModel):
    """A model that the device has loaded, or loads again after it was lost.

    Args:
        runtime: that made it.
        model: its files.
        specs: its inputs.
        names: of its outputs.
        size: bytes of the file that would ship.
        folder: that goes when this does.
    """

    def __init__(
        self,
        runtime: RemoteOnnxRuntime,
        model: SentModel,
        specs: Sequence[TensorSpec],
        names: Sequence[str],
        size: int,
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        super().__init__(specs, names)
        self.model = model
        self.size_bytes = size
        self._runtime = runtime
        self._folder = folder

    def _run_once(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return self._runtime.outputs(self, arrays)


class RemoteOnnxRuntime:
    """Loads, runs and times models with the device's own ONNX Runtime, CPU provider.

    Args:
        device: attached.
        threads: of one inference.
        spinning: whether its idle threads spin; recorded with every measurement.
        sample: inputs to time with, each ``(n, ...)``; random ones of the model's own shapes where None.
        affinity: cores to stay on; None for all that the agent may use.

    Raises:
        TargetError: the device lacks numpy or onnxruntime.
    """

    name = "onnxruntime"

    def __init__(
        self,
        device: Device,
        *,
        threads: int = 1,
        spinning: bool = True,
        sample: Batch | None = None,
        affinity: Sequence[int] | None = None,
    ) -> None:
        if threads < 1:
            raise UserError(f"`threads` must be at least 1, but got {threads}.")
        device.need_onnxruntime()
        self.device = device
        self.threads = threads
        self.spinning = spinning
        self._sample = sample
        self._affinity = None if affinity is None else list(affinity)

    def describe(self) -> Mapping[str, Any]:
        """Name, version, provider, threads and spinning, the device's fingerprint, kernel, microcode and driver."""
        return {
            "name": self.name,
            "version": self.device.versions["onnxruntime"],
            "provider": "cpu",
            "threads": self.threads,
            "spinning": self.spinning,
            "fingerprint": self.device.fingerprint,
            **self.device.system,
            "affinity": self._affinity,
        }

    def build(self, graph: SavedGraph | str | PathLike[str] | bytes) -> RemoteArtifact:
        """Send a graph, a path or a serialized model, where it is not there yet, and load it.

        Raises:
            ModelError: a file that is missing.
            CandidateError: a model that the device's ONNX Runtime refuses.
        """
        contents, size, folder = model_contents(graph)
        model = SentModel.of(contents)
        told, _ = self.device.request(
            "load",
            {"model": model.digest, **self._options()},
            models=[model],
            timeout_seconds=_LOAD_SECONDS,
        )
        specs = [TensorSpec.told(item["name"], item["type"], item["shape"]) for item in told["inputs"]]
        return RemoteArtifact(self, model, specs, told["outputs"], size, folder)

    def time(self, candidate: RemoteArtifact, reference: RemoteArtifact, policy: TimingPolicy) -> PairedTiming:
        """Time both on one sample, interleaved, in the agent's process.

        Raises:
            CandidateError: one of them fails on the sample.
        """
        sample = candidate.sample(self._sample)
        fields = {
            "candidate": candidate.model.digest,
            "reference": reference.model.digest,
            "policy": asdict(reference.calm.known_to(policy)),
            **self._options(),
        }
        found, _ = self.device.request(
            "time",
            fields,
            [_npz([*sample, *reference.sample(self._sample)])],
            models=[candidate.model, reference.model],
            timeout_seconds=policy.longest_seconds + policy.warmup_seconds + _LOAD_SECONDS,
        )
        timing = paired_timing(found)
        reference.calm.note(timing.kept_reference_ms, timing.details)
        details = {
            **timing.details,
            "threads": self.threads,
            "spinning": self.spinning,
            "affinity": self._affinity,
            "sample_shapes": [list(array.shape) for array in sample],
            "sensors": found.get("sensors", {}),
        }
        return replace(timing, details=details)

    def outputs(self, artifact: RemoteArtifact, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What the device computes."""
        told, data = self.device.request(
            "run",
            {"model": artifact.model.digest, **self._options()},
            [_npz(arrays)],
            models=[artifact.model],
            timeout_seconds=_LOAD_SECONDS,
        )
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return [file[f"output_{index}"] for index in range(told["outputs"])]

    def memory(self, artifact: RemoteArtifact) -> Mapping[str, Any]:
        """What a fresh process there takes to load and run the model.

        Returns:
            ``peak_bytes``, ``baseline_bytes`` (before the model was loaded) and ``baseline`` (what that is), as
            :func:`autocompress.measure.memory.answer` gives them.

        Raises:
            TargetError: the device does not tell.
        """
        with self.device.fresh() as device:
            told, _ = device.request(
                "memory",
                {"model": artifact.model.digest, **self._options()},
                [_npz(artifact.sample(self._sample))],
                models=[artifact.model],
                timeout_seconds=_LOAD_SECONDS,
            )
        return told

    def _options(self) -> dict[str, Any]:
        entries = {
            "session.intra_op.allow_spinning": "1" if self.spinning else "0",
            "session.intra_op.spin_duration_us": str(SPIN_MICROSECONDS),
        }
        return {"threads": self.threads, "entries": entries, "affinity": self._affinity}


def model_contents(
    graph: SavedGraph | str | PathLike[str] | bytes,
) -> tuple[dict[str, Part], int, tempfile.TemporaryDirectory[str] | None]:
    """Files of a model by the name they have over there, their size, and a folder that must live as long."""
    if isinstance(graph, bytes):
        return {MODEL_NAME: graph}, len(graph), None
    if isinstance(graph, str | PathLike):
        path = Path(graph)
        return _files(path), model_file_bytes(path), None
    if graph.size_bytes() <= _LARGEST_IN_MEMORY:
        return {MODEL_NAME: graph.to_bytes()}, graph.size_bytes(), None
    folder = tempfile.TemporaryDirectory(prefix="autocompress-")
    path = Path(folder.name) / MODEL_NAME
    graph.save(path)
    return _files(path), graph.size_bytes(), folder


def _files(path: Path) -> dict[str, Part]:
    """A model file and the data files it names."""
    model, *data = model_files(path)
    return {MODEL_NAME: model, **{file.relative_to(path.parent).as_posix(): file for file in data}}


def _npz(arrays: Sequence[NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{f"input_{index}": array for index, array in enumerate(arrays)})  # type: ignore[arg-type]
    return buffer.getvalue()
