"""Models timed by a vendor's tool on an attached device, such as trtexec."""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from os import PathLike
from typing import Any

from autocompress.core.errors import CandidateError, TargetError
from autocompress.core.measurement import Interval, PairedTiming, TimingPolicy
from autocompress.core.target import RuntimeSpec
from autocompress.core.tool import ToolCommand
from autocompress.measure.device import Device, SentModel
from autocompress.measure.runtimes.remote import MODEL_NAME, SavedGraph, model_contents
from autocompress.measure.runtimes.tool_output import ToolReading, last_line, read_output
from autocompress.measure.timing import median_interval

#: Rounds below which the interval is the span of all pairs.
FEWEST_FOR_INTERVAL = 6
_GRACE_SECONDS = 60.0


class CommandArtifact:
    """A model on the device, built there where the tool wants that.

    Args:
        model: its files.
        size: bytes of the file that would ship.
        folder: that goes when this does.
    """

    def __init__(self, model: SentModel, size: int, folder: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self.model = model
        self.size_bytes = size
        self._folder = folder

    def run(self, inputs: Any) -> Any:
        """Tools that time give no outputs.

        Raises:
            TargetError: always.
        """
        raise TargetError("A tool that times models gives no outputs: score them with ONNX Runtime.")


class CommandRuntime:
    """Runs a tool on a device, once for each figure, candidate and reference in turn.

    Args:
        device: attached.
        spec: the runtime; its ``command`` says what to run.
        threads: what ``{threads}`` stands for.

    Raises:
        TargetError: the profile names no command.
    """

    def __init__(self, device: Device, spec: RuntimeSpec, *, threads: int = 1) -> None:
        if spec.command is None:
            raise TargetError(f"The profile names no command that times models with {spec.name}.")
        self.device = device
        self.name = spec.name
        self.threads = threads
        self._tool: ToolCommand = spec.command
        self._version: str | None = None

    def describe(self) -> Mapping[str, Any]:
        """Name, version as the tool tells it, program, threads and the device's fingerprint."""
        if self._version is None:
            self._version = self._ask_version()
        return {
            "name": self.name,
            "version": self._version,
            "provider": self._tool.argv[0].rpartition("/")[2],
            "threads": self.threads,
            "spinning": None,
            "fingerprint": self.device.fingerprint,
            "kernel": self.device.kernel,
        }

    def build(self, graph: SavedGraph | str | PathLike[str] | bytes) -> CommandArtifact:
        """Send a model where it is not there yet, and build what the tool runs.

        Raises:
            ModelError: a file that is missing.
            CandidateError: the tool refuses the model.
        """
        contents, size, folder = model_contents(graph)
        artifact = CommandArtifact(SentModel.of(contents), size, folder)
        if self._tool.build:
            self._build(artifact)
        return artifact

    def time(self, candidate: CommandArtifact, reference: CommandArtifact, policy: TimingPolicy) -> PairedTiming:
        """Rounds of candidate, reference, reference, candidate, each a run of the tool.

        At least one round; more until the interval is narrow or time is up. Rounds whose reference is slower than its
        fastest by more than the tolerance do not count.

        Raises:
            CandidateError: the tool fails, or prints no latency.
        """
        started = time.monotonic()
        rounds: list[tuple[ToolReading, ToolReading, ToolReading, ToolReading]] = []
        while True:
            first, second = self._read(candidate), self._read(reference)
            third, fourth = self._read(reference), self._read(candidate)
            rounds.append((first, fourth, second, third))
            seconds = time.monotonic() - started
            timing = _paired(rounds, policy)
            narrow = timing.ratio_interval.half_width <= policy.half_width * timing.ratio
            enough = narrow and sum(timing.kept) >= min(policy.min_blocks, FEWEST_FOR_INTERVAL)
            # Another round that would end past the limit is not begun.
            if enough or seconds + seconds / len(rounds) > policy.max_seconds:
                break
        details = {
            **timing.details,
            "stopped": "interval" if enough else "time",
            "seconds": seconds,
            "threads": self.threads,
            "tool": list(self._tool.argv),
            "candidate_readings": [_told(reading) for pair in rounds for reading in pair[:2]],
            "reference_readings": [_told(reading) for pair in rounds for reading in pair[2:]],
        }
        return PairedTiming(
            candidate_ms=timing.candidate_ms,
            reference_ms=timing.reference_ms,
            kept=timing.kept,
            ratio=timing.ratio,
            ratio_interval=timing.ratio_interval,
            details=details,
        )

    def _read(self, artifact: CommandArtifact) -> ToolReading:
        status, text = self._run(self._tool.argv, artifact)
        if status == _ENGINE_GONE:
            self._build(artifact)
            status, text = self._run(self._tool.argv, artifact)
        if status != 0:
            raise CandidateError("latency", f"{self._tool.argv[0]} ended {status}: {last_line(text)}")
        return read_output(text, self._tool)

    def _build(self, artifact: CommandArtifact) -> None:
        status, text = self._run(self._tool.build, artifact, makes=True)
        if status != 0:
            raise CandidateError("build", f"{self._tool.build[0]} ended {status}: {last_line(text)}")

    def _run(self, argv: tuple[str, ...], artifact: CommandArtifact, *, makes: bool = False) -> tuple[int, str]:
        tool = self._tool
        files = {"model": MODEL_NAME, "engine": self._engine}
        told, data = self.device.request(
            "exec",
            {
                "argv": list(argv),
                "values": {"threads": str(self.threads)},
                "models": dict.fromkeys(files, artifact.model.digest),
                "files": files,
                "makes": "engine" if makes else None,
                "needs": "engine" if tool.build and not makes else None,
                "timeout_seconds": tool.timeout_seconds,
            },
            models=[artifact.model],
            timeout_seconds=tool.timeout_seconds + _GRACE_SECONDS,
        )
        return int(told["exit"]), data.decode("utf-8", "replace")

    @property
    def _engine(self) -> str:
        """Engines lie beside their model, one for each way to build them."""
        return f"engine-{hashlib.sha256(repr((self._tool.build, self.threads)).encode()).hexdigest()[:16]}"

    def _ask_version(self) -> str:
        tool = self._tool
        if not tool.version:
            return ""
        fields = {"argv": list(tool.version), "models": {}, "timeout_seconds": _GRACE_SECONDS}
        _, data = self.device.request("exec", fields, timeout_seconds=2 * _GRACE_SECONDS)
        lines = data.decode("utf-8", "replace").splitlines()
        return next((line.strip()[:80] for line in lines if any(c.isdigit() for c in line)), "")


#: What the agent tells where an engine that was there is not any more.
_ENGINE_GONE = -1000


def _paired(
    rounds: list[tuple[ToolReading, ToolReading, ToolReading, ToolReading]], policy: TimingPolicy
) -> PairedTiming:
    candidate = [statistics.mean(reading.latency_ms for reading in item[:2]) for item in rounds]
    reference = [statistics.mean(reading.latency_ms for reading in item[2:]) for item in rounds]
    level = min(min(reading.latency_ms for reading in item[2:]) for item in rounds)
    limit = level * (1.0 + policy.calm_tolerance)
    calm = [max(reading.latency_ms for reading in item[2:]) <= limit for item in rounds]
    # Where none was calm the calmest stands, and `calm` says so.
    kept = calm if any(calm) else [value == min(reference) for value in reference]
    pairs = [item for item, keep in zip(rounds, kept, strict=True) if keep]
    logs = [math.log(c / r) for c, r, keep in zip(candidate, reference, kept, strict=True) if keep]
    if len(logs) >= FEWEST_FOR_INTERVAL:
        found = median_interval(logs, confidence=policy.confidence)
        low, high = math.exp(found.low), math.exp(found.high)
    else:
        ratios = [c.latency_ms / r.latency_ms for item in pairs for c in item[:2] for r in item[2:]]
        low, high = min(ratios), max(ratios)
    return PairedTiming(
        candidate_ms=tuple(candidate),
        reference_ms=tuple(reference),
        kept=tuple(kept),
        ratio=math.exp(statistics.median(logs)),
        ratio_interval=Interval(low=low, high=high, confidence=policy.confidence),
        details={"calm": any(calm), "calm_level_ms": level, "rounds": len(rounds), "rounds_kept": sum(kept)},
    )


def _told(reading: ToolReading) -> dict[str, Any]:
    return {
        "latency_ms": reading.latency_ms,
        "samples_ms": list(reading.samples_ms),
        **reading.details,
    }
