"""The last word on a front: finalists timed again, each from a fresh process."""

from __future__ import annotations

import itertools
import math
import statistics
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autocompress.core.errors import Interrupted
from autocompress.core.measurement import Measurement, TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.core.trial import Trial
from autocompress.evaluate.latency import OUTPUTS
from autocompress.measure.calm_levels import CalmLevels, disturbance
from autocompress.measure.fresh_process import FreshRuntime, measure_against
from autocompress.measure.latency import latency_measurement
from autocompress.measure.store import MeasurementStore

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
    levels: CalmLevels | None = None,
    lanes: int = 1,
    passes: int = 1,
    seconds: float = math.inf,
    on_file: Callable[[Trial], None] = lambda trial: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Trial]:
    """Time each finalist's file against the baseline's in a process of its own.

    The search's own figure is kept under ``latency_ms``'s ``details["searched"]``, so that luck in the search shows.
    What a busy machine disturbed is timed again, after all others and so in another minute. Where none was calm and the
    search's own figure is less disturbed, or nearer to the middle of all that the plan got, that one stands, with the
    best of these in ``details["disturbed"]``.

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
        levels: what the search knows of the baseline's calm level; None where several devices time.
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

    def before(place: int) -> None:
        if should_stop():
            raise Interrupted
        with told:
            on_file(finalists[place][0])

    timings = measure_against(
        [path for _, path in finalists],
        baseline,
        threads=threads,
        policy=policy,
        sample=sample,
        affinity=affinity,
        fresh=fresh,
        store=store,
        levels=levels,
        passes=passes,
        seconds=seconds,
        lanes=lanes,
        before=before,
    )
    found = []
    for (trial, _), timing in zip(finalists, timings, strict=True):
        about = {**timing.details, "fingerprint": timing.fingerprint}
        measured = latency_measurement(timing.paired, reference_ms=reference_ms, target=target, runtime=about)
        last = _last_word(trial.measurements["latency_ms"], replace(measured, runtime=timing.runtime), levels, policy)
        found.append(replace(trial, measurements={**trial.measurements, "latency_ms": last}))
    return found


def _last_word(
    searched: Measurement, measured: Measurement, levels: CalmLevels | None, policy: TimingPolicy
) -> Measurement:
    """What was measured at the end, or what the search found.

    The latter where the former was disturbed, and the search's own figure is less so or has others on its side.
    """
    is_told = "calm_level_ms" in searched.details
    if not measured.details["calm"] and is_told:
        # A figure known to be wrong by tens of percent is no better word than one that luck may have chosen.
        before, after = (disturbance(m.details, levels, policy) for m in (searched, measured))
        if before < after or _is_outvoted(measured, searched):
            told = {key: measured.details[key] for key in _TOLD if key in measured.details}
            own = {"calm": not before[0], "fresh_process": False, "searched": searched.value}
            disturbed = {"latency_ms": measured.value, **told}
            return replace(searched, details={**searched.details, **own, "disturbed": disturbed})
    kept = {key: searched.details[key] for key in (OUTPUTS,) if key in searched.details}
    return replace(measured, details={**measured.details, **kept, "searched": searched.value})


def _is_outvoted(measured: Measurement, searched: Measurement) -> bool:
    """Whether the search timed the plan more than once, and its figure is nearer to the middle of all."""
    looks = searched.details.get("look_ms")
    others = [*searched.details.get("other_ms", ()), *(() if looks is None else (looks,))]
    middle = statistics.median_low([searched.value, measured.value, *others])
    return bool(others) and abs(searched.value - middle) < abs(measured.value - middle)


def calm_levels(trials: Iterable[Trial]) -> CalmLevels:
    """What a search has come to know of the uncompressed model's calm level."""
    levels = CalmLevels()
    for latency in (trial.measurements.get("latency_ms") for trial in trials):
        if latency is not None and "kept" in latency.details:
            kept = tuple(itertools.compress(latency.reference_samples, latency.details["kept"]))
            levels.note(kept, latency.details)
    return levels


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
