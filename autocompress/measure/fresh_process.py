"""Measure model files from fresh processes: no caches, threads or memory layout left over from a search.

Run as a module it answers one request: JSON on standard input, one line of JSON on standard output.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.core.errors import (
    AutocompressError,
    CandidateError,
    ModelError,
    UnknownNameError,
    UserError,
)
from autocompress.core.measurement import CAREFUL, PairedTiming, TimingPolicy
from autocompress.core.protocols import Batch, Runtime
from autocompress.measure.calm_levels import CalmLevels
from autocompress.measure.file_timing import FileTiming
from autocompress.measure.kept_timings import about_here, keep_timing, kept_timing, latency_key
from autocompress.measure.latency import model_file_bytes, now, runtime_title
from autocompress.measure.passes import in_passes
from autocompress.measure.plain_samples import from_plain, to_plain
from autocompress.measure.store import MeasurementStore
from autocompress.measure.transports.local import Transport, ask_module, open_transport

RUNTIMES = ("onnxruntime",)
#: A runtime in a process of its own on an attached device, for the time of one comparison.
FreshRuntime = Callable[[], AbstractContextManager[Runtime]]
#: On top of the policy's longest comparison: starting Python and loading two models.
_START_SECONDS = 120.0
#: Times that a file is timed at most.
_PASSES = 2


def measure_files(
    paths: Sequence[str | PathLike[str]],
    *,
    threads: int = 1,
    policy: TimingPolicy = CAREFUL,
    runtime: str = "onnxruntime",
    spinning: bool = True,
    sample: Batch | None = None,
    affinity: Sequence[int] | None = None,
    transport: Transport | None = None,
    fresh: FreshRuntime | None = None,
    store: MeasurementStore | None = None,
) -> list[FileTiming]:
    """Time each file against the first, each in a fresh process of its own.

    The first file's calm level is learned on the way; what turns out to have been disturbed is timed once more, after
    all others.

    Args:
        paths: model files; the first is the reference.
        threads: of one inference.
        policy: how long each comparison may take.
        runtime: one of :data:`RUNTIMES`; a device's runtime is whatever ``fresh`` makes.
        spinning: whether idle threads spin.
        sample: inputs to time with, each ``(n, ...)``; random ones of the models' shapes where None.
        affinity: cores of this machine to stay on; all where None.
        transport: what starts processes on this machine.
        fresh: makes a runtime on an attached device, with threads, sample and affinity of its own; this machine where
            None.
        store: earlier measurements, which are taken where all they depend on is the same; none where None.

    Returns:
        One entry a file, in order; ``details["cached"]`` tells when one was measured that was not measured now.

    Raises:
        UserError: no file, a file that is missing or cannot be loaded or run, an unknown runtime, a device that
            gives no answer.
    """
    if fresh is None and runtime not in RUNTIMES:
        raise UnknownNameError("runtime", runtime, RUNTIMES)
    if not paths:
        raise UserError("There is nothing to measure: name at least one model file.")
    return measure_against(
        paths,
        paths[0],
        threads=threads,
        policy=policy,
        spinning=spinning,
        sample=sample,
        affinity=affinity,
        transport=transport,
        fresh=fresh,
        store=store,
        levels=CalmLevels(),
        passes=_PASSES,
    )


def measure_against(
    paths: Sequence[str | PathLike[str]],
    reference: str | PathLike[str],
    *,
    threads: int = 1,
    policy: TimingPolicy = CAREFUL,
    spinning: bool = True,
    sample: Batch | None = None,
    affinity: Sequence[int] | None = None,
    transport: Transport | None = None,
    fresh: FreshRuntime | None = None,
    store: MeasurementStore | None = None,
    levels: CalmLevels | None = None,
    passes: int = 1,
    seconds: float = math.inf,
    lanes: int = 1,
    before: Callable[[int], None] = lambda place: None,
) -> list[FileTiming]:
    """Time each file against another one; see :func:`measure_files`, which this does.

    Args:
        paths: model files.
        reference: model file.
        threads: of one inference.
        policy: how long each comparison may take.
        spinning: whether idle threads spin.
        sample: inputs to time with.
        affinity: cores of this machine to stay on.
        transport: what starts processes on this machine.
        fresh: makes a runtime on an attached device.
        store: earlier measurements.
        levels: see :func:`autocompress.measure.passes.in_passes`, as the next three.
        passes: how often a file is timed at most.
        seconds: for all passes.
        lanes: comparisons at once, each on a device of its own.
        before: told a file's place before each comparison; may raise to stop.
    """
    for path in (reference, *paths):
        if not Path(path).is_file():
            raise ModelError(f"There is no model file {str(path)!r}.")
    device = open_transport() if transport is None else transport
    keys: dict[int, dict[str, Any]] = {}

    def kept(place: int, about: Mapping[str, Any], is_first: bool) -> FileTiming | None:
        """The earlier measurement; what is measured now is kept under the same key."""
        if store is None:
            return None
        keys[place] = latency_key(paths[place], reference, about=about, policy=policy, sample=sample)
        return kept_timing(store, keys[place], str(paths[place])) if is_first else None

    def here(place: int, how: TimingPolicy, is_first: bool) -> FileTiming:
        before(place)
        about = {} if store is None else about_here(threads=threads, spinning=spinning, affinity=affinity)
        request = {
            "candidate": str(Path(paths[place]).resolve()),
            "reference": str(Path(reference).resolve()),
            "threads": threads,
            "spinning": spinning,
            "affinity": None if affinity is None else list(affinity),
            "policy": asdict(how),
            "sample": to_plain(sample),
        }
        return kept(place, about, is_first) or _ask(device, request, str(paths[place]), how)

    def there(place: int, how: TimingPolicy, is_first: bool) -> FileTiming:
        before(place)
        assert fresh is not None
        try:
            with fresh() as runtime:
                about = {} if store is None else runtime.describe()
                return kept(place, about, is_first) or _timed(runtime, str(paths[place]), str(reference), how)
        except CandidateError as error:
            raise ModelError(f"{str(paths[place])!r}: {error.reason}") from error

    measure = here if fresh is None else there
    found = in_passes(len(paths), measure, policy, levels=levels, passes=passes, seconds=seconds, lanes=lanes)
    return [keep_timing(store, keys.get(place, {}), timing) for place, timing in enumerate(found)]


def _ask(transport: Transport, request: Mapping[str, Any], path: str, policy: TimingPolicy) -> FileTiming:
    """Have a fresh process compare."""
    limit = policy.longest_seconds + policy.warmup_seconds + _START_SECONDS
    told = ask_module(transport, __name__, request, timeout_seconds=limit, subject=path)
    if "error" in told:
        raise ModelError(f"{path!r}: {told['error']}")
    return FileTiming.from_dict({**told, "path": path})


def _timed(runtime: Runtime, path: str, reference: str, policy: TimingPolicy) -> FileTiming:
    """Compare in a runtime that is there already."""
    return _file_timing(runtime, runtime.time(runtime.build(path), runtime.build(reference), policy), path, policy)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Time one file against another in this process, as :func:`measure_files` asks for it.

    Returns:
        A :class:`FileTiming` as a dictionary, or ``error`` with the reason.
    """
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    sample = from_plain(request["sample"])
    policy = TimingPolicy(**request["policy"])
    try:
        runtime = OnnxRuntime(
            threads=request["threads"], spinning=request["spinning"], sample=sample, affinity=request["affinity"]
        )
        return _timed(runtime, request["candidate"], request["reference"], policy).to_dict()
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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))) + "\n")
