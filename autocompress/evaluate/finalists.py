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

from autocompress.core.errors import Interrupted
from autocompress.core.measurement import Measurement, TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.core.trial import Trial
from autocompress.evaluate.latency import OUTPUTS
from autocompress.measure.calm_levels import CalmLevels, disturbance
from autocompress.measure.fresh_process import FreshRuntime, measure_pair
from autocompress.measure.latency import latency_measurement
from autocompress.measure.store import MeasurementStore


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
    search's own figure was, that one stands, with ``details["disturbed"]``: the least disturbed one of these.

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
        Interrupted: ``should_stop`` said so; what was measured is lost.
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

    found: dict[int, Measurement] = {}
    waiting = list(enumerate(finalists))
    with ThreadPoolExecutor(max_workers=lanes) as pool:
        for number in range(passes):
            if number:
                left = seconds - (time.monotonic() - start)
                waiting = waiting[: lanes * int(min(max(0.0, left / longest), len(waiting)))]
            # One at a time they run in this thread, which a user may interrupt.
            run = map if lanes == 1 else pool.map
            for (place, _), measured in zip(waiting, run(timed, [finalist for _, finalist in waiting]), strict=True):
                found[place] = min((measured, found.get(place, measured)), key=lambda m: disturbance(m.details))
            waiting = [(place, finalist) for place, finalist in waiting if not found[place].details["calm"]]
    return [_with_last_word(trial, found[place]) for place, (trial, _) in enumerate(finalists)]


def _with_last_word(trial: Trial, measured: Measurement) -> Trial:
    searched = trial.measurements["latency_ms"]
    if not measured.details["calm"] and searched.details.get("calm"):
        # A figure known to be wrong by tens of percent is no better word than one that luck may have chosen.
        last = replace(searched, details={**searched.details, "disturbed": measured.value})
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
