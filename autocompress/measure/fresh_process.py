"""Measure model files from fresh processes: no caches, threads or memory layout left over from a search.

Run as a module it answers one request: JSON on standard input, one line of JSON on standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.core.errors import (
    AutocompressError,
    CandidateError,
    ModelError,
    TargetError,
    UnknownNameError,
    UserError,
)
from autocompress.core.measurement import CAREFUL, Interval, PairedTiming, Provenance, TimingPolicy
from autocompress.core.protocols import Batch, Runtime
from autocompress.measure.latency import model_file_bytes, now, runtime_title
from autocompress.measure.transports.local import Transport, open_transport

RUNTIMES = ("onnxruntime",)
#: A runtime in a process of its own on an attached device, for the time of one comparison.
FreshRuntime = Callable[[], AbstractContextManager[Runtime]]
#: On top of the policy's longest comparison: starting Python and loading two models.
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTiming:
    """One model file timed against the first one.

    Args:
        path: as given.
        median_ms: median of the calm rounds, milliseconds an inference.
        interval: bootstrap interval of that median.
        samples: milliseconds an inference, one a round.
        reference_samples: likewise of the first file, same rounds.
        kept: which rounds were calm and count.
        ratio: to the first file; that one's own entry is timed against itself and shows the noise.
        ratio_interval: bootstrap interval of the ratio.
        size_bytes: of the file and its data files.
        provenance: always measured.
        runtime: name, version and provider.
        fingerprint: of the machine.
        when: ISO 8601 time in UTC.
        details: threads, spinning, policy, shares kept, why it stopped.
    """

    path: str
    median_ms: float
    interval: Interval
    samples: tuple[float, ...]
    reference_samples: tuple[float, ...]
    kept: tuple[bool, ...]
    ratio: float
    ratio_interval: Interval
    size_bytes: int
    provenance: Provenance = Provenance.MEASURED
    runtime: str
    fingerprint: str
    when: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paired(self) -> PairedTiming:
        """The comparison itself, as :func:`~autocompress.measure.latency.latency_measurement` takes it."""
        return PairedTiming(
            candidate_ms=self.samples,
            reference_ms=self.reference_samples,
            kept=self.kept,
            ratio=self.ratio,
            ratio_interval=self.ratio_interval,
            details=self.details,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        return {
            **{name: getattr(self, name) for name in ("path", "median_ms", "ratio", "size_bytes")},
            "interval": _interval_list(self.interval),
            "ratio_interval": _interval_list(self.ratio_interval),
            "samples": list(self.samples),
            "reference_samples": list(self.reference_samples),
            "kept": list(self.kept),
            "provenance": self.provenance.value,
            **{name: getattr(self, name) for name in ("runtime", "fingerprint", "when")},
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FileTiming:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            **{
                **data,
                "interval": _interval(data["interval"]),
                "ratio_interval": _interval(data["ratio_interval"]),
                "samples": tuple(data["samples"]),
                "reference_samples": tuple(data["reference_samples"]),
                "kept": tuple(data["kept"]),
                "provenance": Provenance(data["provenance"]),
            }
        )


def measure_files(
    paths: Sequence[str | PathLike[str]],
    *,
    threads: int = 1,
    policy: TimingPolicy = CAREFUL,
    runtime: str = "onnxruntime",
    spinning: bool = True,
    sample: Batch | None = None,
    transport: Transport | None = None,
    fresh: FreshRuntime | None = None,
) -> list[FileTiming]:
    """Time each file against the first, each in a fresh process of its own.

    Args:
        paths: model files; the first is the reference.
        threads: of one inference.
        policy: how long each comparison may take.
        runtime: one of :data:`RUNTIMES`.
        spinning: whether idle threads spin.
        sample: inputs to time with, each ``(n, ...)``; random ones of the models' shapes where None.
        transport: what starts processes on this machine.
        fresh: makes a runtime on an attached device, with threads and sample of its own; this machine where None.

    Returns:
        One entry a file, in order.

    Raises:
        UserError: no file, a file that is missing or cannot be loaded or run, an unknown runtime, a device that
            gives no answer.
    """
    if runtime not in RUNTIMES:
        raise UnknownNameError("runtime", runtime, RUNTIMES)
    if not paths:
        raise UserError("There is nothing to measure: name at least one model file.")
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise ModelError(f"There is no model file {str(file)!r}.")
    if fresh is not None:
        return [_measure_there(given, files[0], policy=policy, fresh=fresh) for given in paths]
    device = open_transport() if transport is None else transport
    return [
        _measure_pair(
            given, files[0], threads=threads, policy=policy, spinning=spinning, sample=sample, transport=device
        )
        for given in paths
    ]


def measure_pair(
    candidate: str | PathLike[str],
    reference: str | PathLike[str],
    *,
    threads: int = 1,
    policy: TimingPolicy = CAREFUL,
    sample: Batch | None = None,
    fresh: FreshRuntime | None = None,
) -> FileTiming:
    """Time one file against another in a fresh process; see :func:`measure_files`."""
    if fresh is not None:
        return _measure_there(candidate, Path(reference), policy=policy, fresh=fresh)
    return _measure_pair(
        candidate,
        Path(reference),
        threads=threads,
        policy=policy,
        spinning=True,
        sample=sample,
        transport=open_transport(),
    )


def _measure_pair(
    candidate: str | PathLike[str],
    reference: Path,
    *,
    threads: int,
    policy: TimingPolicy,
    spinning: bool,
    sample: Batch | None,
    transport: Transport,
) -> FileTiming:
    request = {
        "candidate": str(Path(candidate).resolve()),
        "reference": str(reference.resolve()),
        "threads": threads,
        "spinning": spinning,
        "policy": asdict(policy),
        "sample": None if sample is None else [_array_dict(array) for array in sample],
    }
    limit = policy.max_seconds + policy.warmup_seconds + _START_SECONDS
    output = transport.run_module(__name__, json.dumps(request), timeout_seconds=limit)
    try:
        # Only the last line is ours: a library may have printed something of its own.
        answer = json.loads((output.splitlines() or [""])[-1])
    except ValueError as error:
        raise TargetError(f"{__name__} on {transport.url} gave no answer for {str(candidate)!r}.") from error
    if "error" in answer:
        raise ModelError(f"{str(candidate)!r}: {answer['error']}")
    return FileTiming.from_dict({**answer, "path": str(candidate)})


def _measure_there(
    candidate: str | PathLike[str], reference: Path, *, policy: TimingPolicy, fresh: FreshRuntime
) -> FileTiming:
    try:
        with fresh() as runtime:
            timing = runtime.time(runtime.build(candidate), runtime.build(reference), policy)
            return _file_timing(runtime, timing, str(candidate), policy)
    except CandidateError as error:
        raise ModelError(f"{str(candidate)!r}: {error.reason}") from error


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Time one file against another in this process, as :func:`measure_files` asks for it.

    Returns:
        A :class:`FileTiming` as a dictionary, or ``error`` with the reason.
    """
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    sample = None if request["sample"] is None else tuple(_array(item) for item in request["sample"])
    policy = TimingPolicy(**request["policy"])
    try:
        runtime = OnnxRuntime(threads=request["threads"], spinning=request["spinning"], sample=sample)
        candidate, reference = runtime.build(request["candidate"]), runtime.build(request["reference"])
        timing = runtime.time(candidate, reference, policy)
        return _file_timing(runtime, timing, request["candidate"], policy).to_dict()
    except CandidateError as error:
        return {"error": error.reason}
    except AutocompressError as error:
        return {"error": str(error)}


def _file_timing(runtime: Runtime, timing: PairedTiming, path: str, policy: TimingPolicy) -> FileTiming:
    """The record of a comparison that this process made, or an agent for it."""
    from autocompress.measure.timing import median_interval

    about = runtime.describe()
    kept = timing.kept_candidate_ms
    return FileTiming(
        path=path,
        median_ms=float(np.median(kept)),
        interval=median_interval(kept, confidence=policy.confidence),
        samples=timing.candidate_ms,
        reference_samples=timing.reference_ms,
        kept=timing.kept,
        ratio=timing.ratio,
        ratio_interval=timing.ratio_interval,
        size_bytes=model_file_bytes(path),
        runtime=runtime_title(about),
        fingerprint=str(about["fingerprint"]),
        when=now(),
        details={**timing.details, "kept_share": timing.kept_share, "policy": asdict(policy), "fresh_process": True},
    )


def _array_dict(array: Any) -> dict[str, Any]:
    first = np.asarray(array)[:1]
    return {"dtype": first.dtype.str, "shape": list(first.shape), "values": first.ravel().tolist()}


def _array(data: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[Any]]:
    return np.asarray(data["values"], dtype=np.dtype(data["dtype"])).reshape(data["shape"])


def _interval_list(interval: Interval) -> list[float]:
    return [interval.low, interval.high, interval.confidence]


def _interval(values: Sequence[float]) -> Interval:
    return Interval(low=values[0], high=values[1], confidence=values[2])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))) + "\n")
