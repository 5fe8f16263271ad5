"""Measure model files from fresh processes: no caches, threads or memory layout left over from a search.

Run as a module it answers one request: JSON on standard input, one line of JSON on standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
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
from autocompress.measure.calm_blocks import highest_calm_ms
from autocompress.measure.calm_levels import CalmLevels, disturbance
from autocompress.measure.file_timing import FileTiming
from autocompress.measure.kept_timings import about_here, keep_timing, kept_timing, latency_key
from autocompress.measure.latency import model_file_bytes, now, runtime_title
from autocompress.measure.plain_samples import from_plain, to_plain
from autocompress.measure.store import MeasurementStore
from autocompress.measure.transports.local import Transport, ask_module, open_transport

RUNTIMES = ("onnxruntime",)
#: A runtime in a process of its own on an attached device, for the time of one comparison.
FreshRuntime = Callable[[], AbstractContextManager[Runtime]]
#: A timing and what it is kept under; nothing without a store.
_Keyed = tuple[FileTiming, dict[str, Any]]
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
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise ModelError(f"There is no model file {str(file)!r}.")
    if fresh is not None:
        return _in_passes(
            paths,
            policy,
            lambda given, how, kept: _measure_there(
                given, files[0], policy=how, sample=sample, fresh=fresh, store=kept
            ),
            store,
        )
    device = open_transport() if transport is None else transport
    return _in_passes(
        paths,
        policy,
        lambda given, how, kept: _measure_pair(
            given,
            files[0],
            threads=threads,
            policy=how,
            spinning=spinning,
            sample=sample,
            affinity=affinity,
            transport=device,
            store=kept,
        ),
        store,
    )


def _in_passes(
    paths: Sequence[str | PathLike[str]],
    policy: TimingPolicy,
    measure: Callable[[str | PathLike[str], TimingPolicy, MeasurementStore | None], _Keyed],
    store: MeasurementStore | None,
) -> list[FileTiming]:
    """Each file timed; again where the machine was busy, as this or a later comparison with the same file shows.

    Only what no comparison showed to be disturbed is kept in the store.
    """
    levels = CalmLevels()
    found: dict[int, list[_Keyed]] = {place: [] for place in range(len(paths))}

    def best(place: int) -> _Keyed:
        return min(found[place], key=lambda t: (_is_disturbed(t[0], levels, policy), disturbance(t[0].details)))

    for number in range(_PASSES):
        for place, path in enumerate(paths):
            if found[place] and not _is_disturbed(best(place)[0], levels, policy):
                continue
            timing, key = measure(path, levels.known_to(policy), None if number else store)
            if "cached" not in timing.details:
                levels.note(timing.paired.kept_reference_ms, timing.details)
            # What could not be read from the store is kept there all the same.
            found[place].append((timing, key or (found[place][0][1] if found[place] else {})))
    last = []
    for place in range(len(paths)):
        timing, key = best(place)
        is_calm = not _is_disturbed(timing, levels, policy)
        timing = replace(timing, details={**timing.details, "calm": is_calm})
        last.append(_kept(store, timing, key))
    return last


def _is_disturbed(timing: FileTiming, levels: CalmLevels, policy: TimingPolicy) -> bool:
    details, lowest = timing.details, levels.lowest_ms
    if "cached" in details:
        return False
    if lowest is None or not details["calm"]:
        return not details["calm"]
    # A tool that times itself has a rule of its own, and processes that differ by more.
    own_rule = "calm_tolerance" not in details
    most = lowest * (1.0 + policy.calm_tolerance) if own_rule else highest_calm_ms(lowest, policy.calm_tolerance)
    return float(details["calm_level_ms"]) > most


def measure_pair(
    candidate: str | PathLike[str],
    reference: str | PathLike[str],
    *,
    threads: int = 1,
    policy: TimingPolicy = CAREFUL,
    sample: Batch | None = None,
    affinity: Sequence[int] | None = None,
    fresh: FreshRuntime | None = None,
    store: MeasurementStore | None = None,
) -> FileTiming:
    """Time one file against another in a fresh process; see :func:`measure_files`."""
    if fresh is not None:
        return _kept(
            store,
            *_measure_there(candidate, Path(reference), policy=policy, sample=sample, fresh=fresh, store=store),
        )
    timing, key = _measure_pair(
        candidate,
        Path(reference),
        threads=threads,
        policy=policy,
        spinning=True,
        sample=sample,
        affinity=affinity,
        transport=open_transport(),
        store=store,
    )
    return _kept(store, timing, key)


def _kept(store: MeasurementStore | None, timing: FileTiming, key: Mapping[str, Any]) -> FileTiming:
    return timing if "cached" in timing.details else keep_timing(store, key, timing)


def _measure_pair(
    candidate: str | PathLike[str],
    reference: Path,
    *,
    threads: int,
    policy: TimingPolicy,
    spinning: bool,
    sample: Batch | None,
    affinity: Sequence[int] | None,
    transport: Transport,
    store: MeasurementStore | None,
) -> _Keyed:
    key: dict[str, Any] = {}
    if store is not None:
        about = about_here(threads=threads, spinning=spinning, affinity=affinity)
        key = latency_key(candidate, reference, about=about, policy=policy, sample=sample)
        found = kept_timing(store, key, str(candidate))
        if found is not None:
            return found, key
    request = {
        "candidate": str(Path(candidate).resolve()),
        "reference": str(reference.resolve()),
        "threads": threads,
        "spinning": spinning,
        "affinity": None if affinity is None else list(affinity),
        "policy": asdict(policy),
        "sample": to_plain(sample),
    }
    limit = policy.longest_seconds + policy.warmup_seconds + _START_SECONDS
    answer = ask_module(transport, __name__, request, timeout_seconds=limit, subject=str(candidate))
    if "error" in answer:
        raise ModelError(f"{str(candidate)!r}: {answer['error']}")
    return FileTiming.from_dict({**answer, "path": str(candidate)}), key


def _measure_there(
    candidate: str | PathLike[str],
    reference: Path,
    *,
    policy: TimingPolicy,
    sample: Batch | None,
    fresh: FreshRuntime,
    store: MeasurementStore | None,
) -> _Keyed:
    key: dict[str, Any] = {}
    try:
        with fresh() as runtime:
            if store is not None:
                key = latency_key(candidate, reference, about=runtime.describe(), policy=policy, sample=sample)
                found = kept_timing(store, key, str(candidate))
                if found is not None:
                    return found, key
            timing = runtime.time(runtime.build(candidate), runtime.build(reference), policy)
            return _file_timing(runtime, timing, str(candidate), policy), key
    except CandidateError as error:
        raise ModelError(f"{str(candidate)!r}: {error.reason}") from error


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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))) + "\n")
