"""Models timed by a vendor's tool on an attached device, such as trtexec."""

from __future__ import annotations

import hashlib
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from typing import Any

from autocompress.core.errors import CandidateError, TargetError
from autocompress.core.measurement import Interval, PairedTiming, TimingPolicy
from autocompress.core.target import RuntimeSpec
from autocompress.core.tool import ToolCommand
from autocompress.measure.calm_blocks import FEWEST_FOR_INTERVAL
from autocompress.measure.device import Device, SentModel
from autocompress.measure.runtimes.remote import MODEL_NAME, SavedGraph, model_contents
from autocompress.measure.runtimes.tool_model import check_readable, ncnn_shape, precision_arguments
from autocompress.measure.runtimes.tool_output import ToolReading, last_line, read_output
from autocompress.measure.timing import median_interval

_GRACE_SECONDS = 60.0


class CommandArtifact:
    """A model on the device, built there where the tool wants that.

    Args:
        model: its files.
        size: bytes of the file that would ship.
        arguments: that the tool needs for it besides.
        shape: of its input, where the tool wants that.
        folder: that goes when this does.
    """

    def __init__(
        self,
        model: SentModel,
        size: int,
        *,
        arguments: Sequence[str] = (),
        shape: str = "",
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.model = model
        self.size_bytes = size
        self.arguments = tuple(arguments)
        self.shape = shape
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
        affinity: cores that the tool runs on; all where None.

    Raises:
        TargetError: the profile names no command, or its program is not on the device.
    """

    def __init__(
        self, device: Device, spec: RuntimeSpec, *, threads: int = 1, affinity: Sequence[int] | None = None
    ) -> None:
        if spec.command is None:
            raise TargetError(f"The profile names no command that times models with {spec.name}.")
        self.device = device
        self.name = spec.name
        self.threads = threads
        self._affinity = None if affinity is None else list(affinity)
        self._sparse = spec.two_to_four
        self._tool: ToolCommand = spec.command
        self._version: str | None = None
        #: Program to where it is on the device and the digest of its file.
        self._programs = {
            parts[0]: find_program(device, parts[0], spec.command)
            for parts in (spec.command.argv, spec.command.build)
            if parts
        }

    def describe(self) -> Mapping[str, Any]:
        """Name, version as the tool tells it, program and its digest, how it is run, and the device's fingerprint."""
        if self._version is None:
            self._version = self._ask_version()
        return {
            "name": self.name,
            "version": self._version,
            "provider": self._tool.argv[0].rpartition("/")[2],
            "threads": self.threads,
            "spinning": None,
            "fingerprint": self.device.fingerprint,
            **self.device.system,
            "affinity": self._affinity,
            "programs": {name: digest for name, (_, digest) in self._programs.items()},
            "command": {name: value for name, value in asdict(self._tool).items() if name != "install"},
        }

    def build(self, graph: SavedGraph | str | PathLike[str] | bytes) -> CommandArtifact:
        """Send a model where it is not there yet, and build what the tool runs.

        Raises:
            ModelError: a file that is missing, or that the tool does not read.
            CandidateError: the tool refuses the model.
        """
        if isinstance(graph, str | PathLike):
            check_readable(os.fspath(graph), self._tool)
        contents, size, folder = model_contents(graph)
        file = contents[MODEL_NAME]
        artifact = CommandArtifact(
            SentModel.of(contents),
            size,
            arguments=precision_arguments(file, self._tool, sparse=self._sparse),
            shape=ncnn_shape(file) if self._tool.reads == "ncnn" else "",
            folder=folder,
        )
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
            "affinity": self._affinity,
            "tool": list(self._tool.argv),
            "arguments": {"candidate": list(candidate.arguments), "reference": list(reference.arguments)},
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
        files = {"model": MODEL_NAME, "engine": self._engine(artifact)}
        more = artifact.arguments if makes or not tool.build else ()
        told, data = self.device.request(
            "exec",
            {
                "argv": [self._programs[argv[0]][0].replace("{", "{{").replace("}", "}}"), *argv[1:], *more],
                "values": {"threads": str(self.threads), "shape": artifact.shape},
                "affinity": self._affinity,
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

    def _engine(self, artifact: CommandArtifact) -> str:
        """Engines lie beside their model, one for each program, version and way to build them."""
        digest = self._programs[self._tool.build[0]][1] if self._tool.build else ""
        about = (self._tool.build, artifact.arguments, self.threads, digest, self.describe()["version"])
        return f"engine-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}"

    def _ask_version(self) -> str:
        tool = self._tool
        if not tool.version:
            return ""
        path, _ = self._programs.get(tool.version[0], (tool.version[0], ""))
        argv = [part.replace("{", "{{").replace("}", "}}") for part in (path, *tool.version[1:])]
        fields = {"argv": argv, "models": {}, "timeout_seconds": _GRACE_SECONDS}
        _, data = self.device.request("exec", fields, timeout_seconds=2 * _GRACE_SECONDS)
        return version_in(data.decode("utf-8", "replace"))


def find_program(device: Device, program: str, tool: ToolCommand) -> tuple[str, str]:
    """Where a program is on a device, and the SHA-256 of its file.

    Raises:
        TargetError: it is not there.
    """
    found = device.find_program(program, tool.places)
    if found is None:
        where = " and ".join(["PATH", *tool.places])
        hint = f": {tool.install}" if tool.install else ""
        raise TargetError(f"{program} is not on {device.url} (looked in {where}){hint}.")
    return found


def version_in(text: str) -> str:
    """The first version number that a tool prints: ``8401`` of ``[TensorRT v8401]``, ``1.2.3``; else its first line."""
    lines = [line.strip() for line in text.splitlines() if any(c.isdigit() for c in line)]
    found = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+|\d{4,})", lines[0]) if lines else None
    return found[1] if found else "".join(lines[:1])[:80]


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
