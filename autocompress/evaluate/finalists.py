"""The last word on a front: finalists timed again, each from a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from autocompress.core.measurement import Measurement, TimingPolicy
from autocompress.core.trial import Trial
from autocompress.measure.fresh_process import measure_files
from autocompress.measure.latency import latency_measurement


def remeasure(
    finalists: Sequence[tuple[Trial, Path]],
    baseline: Path,
    *,
    reference_ms: float,
    target: str,
    threads: int,
    policy: TimingPolicy,
    on_file: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Time each finalist's file against the baseline's in a process of its own.

    The search's own figure is kept under ``latency_ms``'s ``details["searched"]``, so that luck in the search shows.

    Args:
        finalists: trials with the paths of their artifacts.
        baseline: the uncompressed artifact.
        reference_ms: the run's baseline latency, milliseconds.
        target: name that the measurements carry.
        threads: of the runtime.
        policy: of each comparison.
        on_file: called before each.

    Returns:
        The trials with their new ``latency_ms``.
    """
    result = []
    for trial, path in finalists:
        on_file(trial)
        timing = measure_files([baseline, path], threads=threads, policy=policy)[1]
        measured = latency_measurement(
            timing.timing, reference_ms=reference_ms, target=target, runtime=timing.runtime
        )
        searched = trial.measurements["latency_ms"]
        measured = replace(measured, details={**measured.details, "searched": searched.value})
        result.append(replace(trial, measurements={**trial.measurements, "latency_ms": measured}))
    return result


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
