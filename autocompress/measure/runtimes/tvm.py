"""TVM on this machine, or on a device: models compiled in a process of their own, run and timed there or beyond it."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError, ModelError, UserError
from autocompress.core.measurement import PairedTiming, TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.hardware.host import host_fingerprint, system_versions
from autocompress.measure.array_files import load_arrays, save_arrays
from autocompress.measure.cache import cache_folder
from autocompress.measure.latency import model_file_bytes
from autocompress.measure.runtimes.loaded import LoadedModel
from autocompress.measure.runtimes.remote import MODEL_NAME, SavedGraph
from autocompress.measure.runtimes.tensors import TensorSpec
from autocompress.measure.runtimes.tvm_link import TvmWorker, WorkerDiedError
from autocompress.measure.runtimes.tvm_tuning import Tuning
from autocompress.measure.timing import paired_timing

HOST = CompileTarget()
#: Schedules, below the user's cache folder.
SCHEDULES = "tvm"


class RunningDevice(Protocol):
    """What a measurement tells of a device."""

    system: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """Readable and stable identity."""


class TvmArtifact(LoadedModel):
    """A model that TVM has compiled, or compiles again after its worker died.

    Args:
        runtime: that made it.
        path: of the ``.onnx`` file.
        told: what the worker said of it.
        folder: of the file, where it goes when this does.
    """

    def __init__(
        self,
        runtime: TvmRuntime,
        path: Path,
        told: Mapping[str, Any],
        folder: Path | None = None,
    ) -> None:
        inputs = [
            TensorSpec(name=item["name"], dtype=np.dtype(item["dtype"]), shape=tuple(item["shape"]))
            for item in told["inputs"]
        ]
        super().__init__(inputs, [item["name"] for item in told["outputs"]])
        self.path = path
        self.told: Mapping[str, Any] = told
        self.generation = runtime.worker.generation
        self._runtime = runtime
        weakref.finalize(self, runtime.forget, self.generation, int(told["handle"]))
        if folder is not None:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    @property
    def size_bytes(self) -> int:
        """Bytes of the ``.onnx`` file."""
        return model_file_bytes(self.path)

    @property
    def schedules(self) -> dict[str, Any]:
        """How many of its kernels are ``tuned``, ``transferred`` and ``untuned``, and the fewest ``trials`` of one."""
        kernels = self.told["kernels"]
        counts = Counter(kernel["origin"] for kernel in kernels)
        return {
            **{origin: counts[origin] for origin in ("tuned", "transferred", "untuned")},
            "trials": min((kernel["trials"] for kernel in kernels if kernel["origin"] == "tuned"), default=0),
        }

    def _run_once(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return self._runtime.outputs(self, arrays)


class TvmRuntime:
    """Compiles, runs and times models with TVM, for one sample at a time.

    Args:
        threads: of one inference.
        sample: inputs to time with, each ``(n, ...)``, the first sample is taken; random ones of the model's own
            shapes where None.
        target: what to compile for; only the host's code can be run and timed here.
        tuning: what may be spent on schedules; nothing where None.
        schedules: folder of those found earlier; below the user's cache folder where None.
        worker: that does it; one of its own where None.
        device: that the worker runs models on; this machine where None.
        affinity: cores that the worker stays on; all where None.
        on_kernel: told of each kernel that is being tuned.
        on_tuned: told how many seconds tuning a model took.

    Raises:
        MissingExtraError: TVM is not installed.
    """

    name = "tvm"

    def __init__(
        self,
        *,
        threads: int = 1,
        sample: Batch | None = None,
        target: CompileTarget = HOST,
        tuning: Tuning | None = None,
        schedules: Path | None = None,
        worker: TvmWorker | None = None,
        device: RunningDevice | None = None,
        affinity: Sequence[int] | None = None,
        on_kernel: Callable[[str], None] = lambda kernel: None,
        on_tuned: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        if threads < 1:
            raise UserError(f"`threads` must be at least 1, but got {threads}.")
        self.threads = threads
        self.target = target
        self.worker = worker or TvmWorker(threads=threads, affinity=affinity)
        self._affinity = None if affinity is None else list(affinity)
        self.tuning = tuning or Tuning()
        self._device = device
        self._schedules = schedules or cache_folder() / SCHEDULES
        self.on_kernel = on_kernel
        self.on_tuned = on_tuned
        self._sample = sample
        self._about: dict[str, Any] | None = None
        self._unused: list[tuple[int, int]] = []
        self._deadly: list[str] = []

    def describe(self) -> Mapping[str, Any]:
        """Name, version, what code is for, threads, which schedules are known, and the machine's fingerprint."""
        if self._about is None:
            self._about = self.worker.ask("hello")
        return {
            "name": self.name,
            "version": self._about["version"],
            "provider": f"llvm {self._about['cpu']}" if self.target.is_host else str(self.target),
            "threads": self.threads,
            "spinning": None,
            "affinity": self._affinity,
            "tune_trials": self.tuning.trials,
            "schedules": self._known_schedules(),
            "fingerprint": host_fingerprint() if self._device is None else self._device.fingerprint,
            **(system_versions() if self._device is None else self._device.system),
        }

    def build(self, graph: SavedGraph | str | PathLike[str] | bytes) -> TvmArtifact:
        """Compile a graph, a file or a serialized model.

        Raises:
            ModelError: a file that is missing or no model.
            CandidateError: TVM cannot import or compile it; the reason names the operator and its node.
            TargetError: this TVM makes no code for the target.
        """
        path, folder = _file_of(graph)
        try:
            told = self._compile(path)
        except BaseException:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return TvmArtifact(self, path, told, folder)

    def explain(self, graph: SavedGraph | str | PathLike[str] | bytes) -> list[dict[str, Any]]:
        """What each layer with weights would compute in.

        Returns:
            A record a layer: ``node``, ``op_type``, ``kernel``, and the ``reason`` why a quantized one is not integers.

        Raises:
            ModelError: a file that is missing or no model.
            CandidateError: TVM cannot import it.
        """
        path, folder = _file_of(graph)
        try:
            told = self.worker.ask("explain", {"model": str(path), "target": self.target.to_dict()})
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        layers: list[dict[str, Any]] = told["layers"]
        return layers

    def time(self, candidate: TvmArtifact, reference: TvmArtifact, policy: TimingPolicy) -> PairedTiming:
        """Time both on one sample, interleaved, in the worker's process.

        Raises:
            CandidateError: one of them fails on the sample, or kills the worker.
        """
        _check_comparable(candidate, reference)
        sample, other = candidate.sample(self._sample), reference.sample(self._sample)
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
            fields = {
                **self._given("candidate", candidate, sample, folder),
                **self._given("reference", reference, other, folder),
                "policy": asdict(reference.calm.known_to(policy)),
            }
            # Making one ready may have started the worker anew, which loses the other.
            fields |= {"candidate": self._handle(candidate), "reference": self._handle(reference)}
            timing = paired_timing(self.worker.ask("time", fields))
        reference.calm.note(timing.kept_reference_ms, timing.details)
        details = {
            **timing.details,
            "threads": self.threads,
            "sample_shapes": [list(array.shape) for array in sample],
            "schedules": candidate.schedules,
            "reference_schedules": reference.schedules,
        }
        return replace(timing, details=details)

    def outputs(self, artifact: TvmArtifact, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What the compiled model computes."""
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
            given, found = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
            save_arrays(given, arrays)
            handle = self._handle(artifact)
            self.worker.ask("run", {"handle": handle, "inputs": str(given), "outputs": str(found)})
            return load_arrays(found)

    def export(self, artifact: TvmArtifact, folder: Path) -> dict[str, Any]:
        """Write the compiled model and the schedules of its kernels to files.

        Args:
            artifact: the model.
            folder: that is there.

        Returns:
            ``library`` (``model.so``, or ``model.tar`` where this machine cannot link for the target), ``target`` as
            TVM has it, ``inputs``, ``outputs`` and ``kernels`` as of compiling.
        """
        told = self.worker.ask("export", {"handle": self._handle(artifact), "folder": str(folder)})
        return {**told, **{key: artifact.told[key] for key in ("target", "inputs", "outputs", "kernels")}}

    def close(self) -> None:
        """End the worker."""
        self.worker.close()

    def forget(self, generation: int, handle: int) -> None:
        """Let the worker drop a model that nothing holds any more, when it is asked next."""
        self._unused.append((generation, handle))

    def _compile(self, path: Path) -> dict[str, Any]:
        """Compile a model; a kernel whose tuning kills the worker is left untuned for good, and the rest goes on."""
        while True:
            unused, self._unused = self._unused, []
            current = ""

            def watch(event: Mapping[str, Any]) -> None:
                nonlocal current
                current = str(event["digest"])
                if current:
                    self.on_kernel(str(event["kernel"]))

            fields = {
                "model": str(path),
                "target": self.target.to_dict(),
                "drop": [handle for generation, handle in unused if generation == self.worker.generation],
                "schedules": str(self._schedules),
                "tuning": {
                    "trials": self.tuning.trials,
                    "seconds": self.tuning.left,
                    "transfer": self.tuning.transfer,
                    "skip": self._deadly,
                },
            }
            started = time.monotonic()
            try:
                told = self.worker.ask("compile", fields, on_event=watch)
            except WorkerDiedError:
                self._spend(time.monotonic() - started)
                if not current or current in self._deadly:
                    raise
                self._deadly.append(current)
                continue
            self._spend(told["seconds"]["tune"])
            return told

    def _known_schedules(self) -> dict[str, int]:
        """Bytes of each file of schedules, which only grow: a kept measurement is one of the same schedules."""
        return {path.parent.name: path.stat().st_size for path in sorted(self._schedules.glob("*/*.jsonl"))}

    def _spend(self, seconds: float) -> None:
        self.tuning.spent += seconds
        self.on_tuned(seconds)

    def _handle(self, artifact: TvmArtifact) -> int:
        """The worker's number for a model; compiles it again where that worker is gone."""
        if artifact.generation != self.worker.generation or self.worker.pid is None:
            artifact.told = self._compile(artifact.path)
            artifact.generation = self.worker.generation
        return int(artifact.told["handle"])

    def _given(self, name: str, artifact: TvmArtifact, sample: Batch, folder: str) -> dict[str, Any]:
        path = Path(folder) / f"{name}.npz"
        save_arrays(path, sample)
        return {name: self._handle(artifact), f"{name}_inputs": str(path)}


def _check_comparable(candidate: TvmArtifact, reference: TvmArtifact) -> None:
    """Raise :class:`CandidateError` where one of two models has untuned kernels and the other is tuned."""
    counts = [artifact.schedules for artifact in (candidate, reference)]
    if all(count["untuned"] for count in counts) or not any(count["untuned"] for count in counts):
        return
    names = ("it", "its reference")
    which = 0 if counts[0]["untuned"] else 1
    untuned = [kernel["name"] for kernel in (candidate, reference)[which].told["kernels"] if kernel["trials"] == 0]
    raise CandidateError(
        "latency",
        f"{len(untuned)} kernels of {names[which]} are untuned ({untuned[0][:60]}, …) and those of "
        f"{names[1 - which]} are tuned, so the two cannot be compared: give more --tune-budget",
    )


def _file_of(
    graph: SavedGraph | str | PathLike[str] | bytes,
) -> tuple[Path, Path | None]:
    """The model in a file, and the folder that is made for it."""
    if isinstance(graph, str | PathLike):
        path = Path(graph).resolve()
        if not path.is_file():
            raise ModelError(f"There is no model file {str(graph)!r}.")
        return path, None
    folder = Path(tempfile.mkdtemp(prefix="autocompress-"))
    path = folder / MODEL_NAME
    if isinstance(graph, bytes):
        path.write_bytes(graph)
    else:
        graph.save(path)
    return path, folder
