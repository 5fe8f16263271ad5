"""The last word on a front: finalists timed again, each from a fresh process."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from autocompress.core.errors import AutocompressError, Interrupted
from autocompress.core.measurement import Measurement, TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.core.trial import Trial
from autocompress.evaluate.latency import OUTPUTS
from autocompress.measure.calm_blocks import highest_calm_ms
from autocompress.measure.calm_levels import CalmLevels, disturbance
from autocompress.measure.fresh_process import FreshRuntime, measure_pair
from autocompress.measure.latency import latency_measurement
from autocompress.measure.store import MeasurementStore

#: So many finalists that agree on a new level show that the machine is slower now.
_FEWEST_TO_AGREE = 3
#: What is told of a comparison that a busy machine disturbed.
_TOLD = ("ratio", "ratio_interval", "kept_share", "calm_level_ms", "fresh_process", "server")


def remeasure(
    finalists: Sequence[tuple[Trial, Path]],
    baseline: Path,
    *,
    reference_ms: float,
    target: str,
    threads: int,
    policy: TimingPolicy,
    sample: Batch | None = None,
    affinity: Sequence[int] | None = None,
    fresh: FreshRuntime | None = None,
    store: MeasurementStore | None = None,
    lanes: int = 1,
    passes: int = 1,
    seconds: float = math.inf,
    on_file: Callable[[Trial], None] = lambda trial: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Trial]:
    """Time each finalist's file against the baseline's in a process of its own.

    The search's own figure is kept under ``latency_ms``'s ``details["searched"]``, so that luck in the search shows.
    What a busy machine disturbed is timed again, after all others and so in another minute. Where none was calm and the
    search's own figure is less disturbed, that one stands, with the best of these in ``details["disturbed"]``.

    Args:
        finalists: trials with the paths of their artifacts.
        baseline: the uncompressed artifact.
        reference_ms: the run's baseline latency, milliseconds.
        target: name that the measurements carry.
        threads: of the runtime.
        policy: of each comparison.
        sample: inputs to time with, each ``(n, ...)``; random ones where None.
        affinity: cores of this machine to stay on; all where None.
        fresh: makes a runtime in a process of its own on an attached device; this machine where None.
        store: earlier measurements, which are taken where all they depend on is the same.
        lanes: comparisons at once, each on a device of its own.
        passes: how often a disturbed comparison is made at most.
        seconds: for all passes; the first is made in any case.
        on_file: called before each.
        should_stop: asked before each.

    Returns:
        The trials with their new ``latency_ms``.

    Raises:
        Interrupted: ``should_stop`` said so before each was timed once; what was measured is lost.
    """
    told = threading.Lock()
    start, longest = time.monotonic(), 0.0

    def timed(finalist: tuple[Trial, Path]) -> Measurement:
        nonlocal longest
        trial, path = finalist
        if should_stop():
            raise Interrupted
        with told:
            on_file(trial)
        begun = time.monotonic()
        timing = measure_pair(
            path,
            baseline,
            threads=threads,
            policy=policy,
            sample=sample,
            affinity=affinity,
            fresh=fresh,
            store=store,
        )
        about = {**timing.details, "fingerprint": timing.fingerprint}
        measured = latency_measurement(timing.paired, reference_ms=reference_ms, target=target, runtime=about)
        longest = max(longest, time.monotonic() - begun)
        return replace(measured, runtime=timing.runtime)

    # Levels of several devices say nothing about each other.
    badness = _disturbance if lanes == 1 else _blur
    with ThreadPoolExecutor(max_workers=lanes) as pool:
        # One at a time they run in this thread, which a user may interrupt.
        run = map if lanes == 1 else pool.map
        found = list(run(timed, finalists))
        for _ in range(passes - 1):
            if _is_slower_now(found):
                return [_with_last_word(trial, _calm(last)) for (trial, _), last in zip(finalists, found, strict=True)]
            left = seconds - (time.monotonic() - start)
            waiting = [place for place, last in enumerate(found) if not last.details["calm"]]
            waiting = waiting[: lanes * int(min(max(0.0, left / max(longest, 1e-3)), len(waiting)))]
            try:
                for place, again in zip(waiting, run(timed, [finalists[place] for place in waiting]), strict=True):
                    found[place] = min(found[place], again, key=badness)
            except AutocompressError:
                # Stopped, or a device is lost: every file has its word already.
                break
    return [_with_last_word(trial, last) for (trial, _), last in zip(finalists, found, strict=True)]


def _disturbance(latency: Measurement) -> tuple[bool, float]:
    return disturbance(latency.details)


def _blur(latency: Measurement) -> tuple[bool, float]:
    interval = latency.interval
    return not latency.details["calm"], math.inf if interval is None else interval.half_width / latency.value


def _is_slower_now(latencies: Sequence[Measurement]) -> bool:
    """Whether all agree on a level that the search did not know: a slower clock, not a neighbour."""
    levels = [latency.details["calm_level_ms"] for latency in latencies]
    if len(latencies) < _FEWEST_TO_AGREE or any(latency.details["calm"] for latency in latencies):
        return False
    steady = all(latency.details.get("steady") for latency in latencies)
    return steady and max(levels) <= highest_calm_ms(min(levels))


def _calm(latency: Measurement) -> Measurement:
    return replace(latency, details={**latency.details, "calm": True})


def _with_last_word(trial: Trial, measured: Measurement) -> Trial:
    searched = trial.measurements["latency_ms"]
    told_level = "calm_level_ms" in searched.details
    if not measured.details["calm"] and told_level and _disturbance(searched) < _disturbance(measured):
        # A figure known to be wrong by tens of percent is no better word than one that luck may have chosen.
        told = {key: measured.details[key] for key in _TOLD if key in measured.details}
        disturbed = {"latency_ms": measured.value, **told}
        last = replace(searched, details={**searched.details, "fresh_process": False, "disturbed": disturbed})
    else:
        kept = {key: searched.details[key] for key in (OUTPUTS,) if key in searched.details}
        last = replace(measured, details={**measured.details, **kept})
    last = replace(last, details={**last.details, "searched": searched.value})
    return replace(trial, measurements={**trial.measurements, "latency_ms": last})


def calm_reference_ms(trials: Iterable[Trial]) -> float | None:
    """The uncompressed model's calm level as a search has come to know it, milliseconds; None if none was calm."""
    levels = CalmLevels()
    for latency in (trial.measurements.get("latency_ms") for trial in trials):
        if latency is not None and "kept" in latency.details:
            kept = tuple(itertools.compress(latency.reference_samples, latency.details["kept"]))
            levels.note(kept, latency.details)
    return levels.lowest_ms


def quality_with_test(trial: Trial, metric: str, test: Measurement) -> Trial:
    """The trial with its test-set quality noted beside the validation figure."""
    quality = trial.measurements[metric]
    interval = test.interval
    details = {
        **quality.details,
        "test": test.value,
        "test_interval": None if interval is None else [interval.low, interval.high, interval.confidence],
    }
    return replace(trial, measurements={**trial.measurements, metric: replace(quality, details=details)})
