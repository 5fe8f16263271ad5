"""ONNX Runtime on the CPU: the default runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError, ModelError, UserError
from autocompress.core.measurement import PairedTiming, TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.hardware.host import host_fingerprint
from autocompress.measure.affinity import pinned
from autocompress.measure.latency import model_file_bytes
from autocompress.measure.runtimes.loaded import LoadedModel
from autocompress.measure.runtimes.session import ORT_ERRORS, create_session, first_line, session_options
from autocompress.measure.runtimes.tensors import TensorSpec, check_inputs
from autocompress.measure.timing import compare


class SkeletonGraph(Protocol):
    """What of a ModelGraph this runtime reads."""

    def skeleton(self) -> tuple[bytes, dict[str, NDArray[Any]]]:
        """A serialized model without its large weights, and those weights by name."""

    def size_bytes(self) -> int:
        """Bytes of the file that ``save`` would write."""


class OrtArtifact(LoadedModel):
    """A model that ONNX Runtime has loaded.

    Args:
        session: the loaded model.
        held: values whose memory the session reads.
        size: bytes of the file; asked once, when it is wanted.
    """

    def __init__(self, session: ort.InferenceSession, held: Sequence[ort.OrtValue], size: Callable[[], int]) -> None:
        super().__init__(
            [TensorSpec.of(argument) for argument in session.get_inputs()],
            [argument.name for argument in session.get_outputs()],
        )
        self.session = session
        self._held = tuple(held)
        self._size = size
        self._size_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the file that holds this model."""
        if self._size_bytes is None:
            self._size_bytes = self._size()
        return self._size_bytes

    def bound_call(self, sample: Batch) -> Callable[[], None]:
        """One inference of ``sample`` with nothing around it: inputs and outputs are bound beforehand.

        Raises:
            DataError: the sample does not fit.
            CandidateError: the model fails on it.
        """
        binding = self.session.io_binding()
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in check_inputs(self.input_specs, sample)]
        for spec, value in zip(self.input_specs, values, strict=True):
            binding.bind_ortvalue_input(spec.name, value)
        for name in self.output_names:
            binding.bind_output(name)
        run = self.session.run_with_iobinding

        # The binding does not own the inputs' memory: `keep` does, for as long as the call lives.
        def call(keep: object = values) -> None:
            run(binding)

        try:
            call()
        except ORT_ERRORS as error:
            shapes = ", ".join(str(np.shape(array)) for array in sample)
            raise CandidateError("run", f"fails on a sample of shape {shapes}: {first_line(error)}") from error
        return call

    def _run_once(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        feed = {spec.name: array for spec, array in zip(self.input_specs, arrays, strict=True)}
        try:
            return [np.asarray(output) for output in self.session.run(list(self.output_names), feed)]
        except ORT_ERRORS as error:
            raise CandidateError("run", first_line(error)) from error


class OnnxRuntime:
    """Loads, runs and times models with ONNX Runtime's CPU provider.

    Args:
        threads: of one inference.
        spinning: whether its idle threads spin; recorded with every measurement.
        sample: inputs to time with, each ``(n, ...)``, the first sample is taken; random ones of the model's own
            shapes where None.
        affinity: cores to load and time models on; wherever this process may run where None.
    """

    name = "onnxruntime"

    def __init__(
        self,
        *,
        threads: int = 1,
        spinning: bool = True,
        sample: Batch | None = None,
        affinity: Sequence[int] | None = None,
    ) -> None:
        if threads < 1:
            raise UserError(f"`threads` must be at least 1, but got {threads}.")
        self.threads = threads
        self.spinning = spinning
        self.affinity = None if affinity is None else list(affinity)
        self._sample = sample

    def describe(self) -> Mapping[str, Any]:
        """Name, version, provider, threads, spinning, affinity and the device's fingerprint."""
        return {
            "name": self.name,
            "version": ort.__version__,
            "provider": "cpu",
            "threads": self.threads,
            "spinning": self.spinning,
            "fingerprint": host_fingerprint(),
            "affinity": self.affinity,
        }

    def build(self, graph: SkeletonGraph | str | PathLike[str] | bytes) -> OrtArtifact:
        """Load a graph, a path or a serialized model.

        A graph's weights are read where they lie in memory; they are never serialized.

        Raises:
            ModelError: a file or bytes that ONNX Runtime cannot load.
            CandidateError: a graph that it refuses.
            TargetError: cores of the affinity that cannot be used.
        """
        # A session's threads stay where they are started.
        with pinned(self.affinity):
            return self._build(graph)

    def _build(self, graph: SkeletonGraph | str | PathLike[str] | bytes) -> OrtArtifact:
        options = session_options(threads=self.threads, spinning=self.spinning)
        if isinstance(graph, bytes):
            return self._load(graph, options, "The model", partial(len, graph))
        if isinstance(graph, str | PathLike):
            path = Path(graph)
            if not path.is_file():
                raise ModelError(f"There is no model file {str(path)!r}.")
            return self._load(path, options, repr(str(path)), partial(model_file_bytes, path))
        skeleton, arrays = graph.skeleton()
        try:
            session, held = create_session(skeleton, options, arrays)
        except ORT_ERRORS as error:
            raise CandidateError("build", first_line(error)) from error
        return OrtArtifact(session, held, graph.size_bytes)

    def time(self, candidate: OrtArtifact, reference: OrtArtifact, policy: TimingPolicy) -> PairedTiming:
        """Time both on one sample, interleaved, in this process.

        The reference's calm level is remembered from one comparison to the next.

        Raises:
            CandidateError: one of them fails on the sample.
        """
        sample = candidate.sample(self._sample)
        with pinned(self.affinity):
            calls = candidate.bound_call(sample), reference.bound_call(reference.sample(self._sample))
            timing = compare(*calls, reference.calm.known_to(policy))
        reference.calm.note(timing.kept_reference_ms, timing.details)
        details = {
            **timing.details,
            "threads": self.threads,
            "spinning": self.spinning,
            "affinity": self.affinity,
            "sample_shapes": [list(array.shape) for array in sample],
        }
        return replace(timing, details=details)

    def _load(
        self, source: bytes | Path, options: ort.SessionOptions, title: str, size: Callable[[], int]
    ) -> OrtArtifact:
        try:
            session, held = create_session(source, options)
        except ORT_ERRORS as error:
            reason = first_line(error)
            if isinstance(source, Path):
                reason = reason.removeprefix(f"Load model from {source} failed:")
            raise ModelError(f"{title} cannot be loaded by ONNX Runtime: {reason}.") from error
        return OrtArtifact(session, held, size)
