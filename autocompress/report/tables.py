"""Trials as tidy tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import METRICS, QUALITY_METRICS
from autocompress.core.pareto import ParetoFront
from autocompress.core.trial import Trial
from autocompress.store.run_dir import atomic_write

#: Estimated figures carry this before their name, so that they never share a column with measured ones.
ESTIMATED = "estimated_"
LEADING = ("number", "state", "source", "label", "on_front")


def trials_frame(trials: Sequence[Trial], front: ParetoFront | None = None) -> pd.DataFrame:
    """One row a trial.

    Args:
        trials: in any order; the rows are in order of number.
        front: marks its trials in ``on_front``; without it that column is left out.

    Returns:
        Columns ``number, state, source, label, on_front``; each metric with ``_low`` and ``_high``; ``test_accuracy``;
        ``latency_ratio`` with its interval and ``latency_provenance``; ``plan_digest``, ``error``, and
        ``seconds_<stage>``. Estimated metrics are named ``estimated_<metric>``.
    """
    numbers = None if front is None else {t.number for t in front.trials}
    rows = [_row(trial, numbers) for trial in sorted(trials, key=lambda t: t.number)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=_place)
    return pd.DataFrame(rows, columns=columns)


def write_trials(path: str | os.PathLike[str], trials: Sequence[Trial], front: ParetoFront | None = None) -> Path:
    """Write :func:`trials_frame` as CSV, whole or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """
    return atomic_write(Path(path), trials_frame(trials, front).to_csv(index=False).encode())


def latency_ratio(trial: Trial, baseline: Trial | None = None) -> float | None:
    """Latency as a share of the uncompressed model's, from the interleaved timing where there is one."""
    latency = trial.measurements.get("latency_ms")
    if latency is None:
        return None
    if latency.details.get("ratio") is not None:
        return float(latency.details["ratio"])
    other = None if baseline is None else baseline.measurements.get("latency_ms")
    return None if other is None or other.value <= 0 else latency.value / other.value


def _row(trial: Trial, front: set[int] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.value,
        "source": trial.candidate.source,
        "label": trial.candidate.label,
    }
    if front is not None:
        row["on_front"] = trial.number in front
    for metric, measurement in trial.measurements.items():
        row.update(_metric(metric, measurement))
    row["plan_digest"] = trial.plan.digest
    row["error"] = trial.error
    row.update({f"seconds_{stage.replace(' ', '_')}": seconds for stage, seconds in trial.stage_seconds.items()})
    return row


def _metric(metric: str, measurement: Measurement) -> dict[str, Any]:
    estimated = measurement.provenance is Provenance.ESTIMATED
    name = f"{ESTIMATED if estimated else ''}{metric}"
    row: dict[str, Any] = {name: measurement.value}
    if measurement.interval is not None:
        row[f"{name}_low"] = measurement.interval.low
        row[f"{name}_high"] = measurement.interval.high
    details = measurement.details
    if metric in QUALITY_METRICS and details.get("test") is not None:
        row[f"test_{metric}"] = details["test"]
        row.update(_ends(f"test_{metric}", details.get("test_interval")))
    if metric == "latency_ms":
        row["latency_provenance"] = measurement.provenance.value
        if details.get("ratio") is not None:
            row["latency_ratio"] = details["ratio"]
            row.update(_ends("latency_ratio", details.get("ratio_interval")))
    return row


def _ends(name: str, interval: Sequence[float] | Mapping[str, float] | None) -> dict[str, float]:
    if interval is None:
        return {}
    low, high = (interval["low"], interval["high"]) if isinstance(interval, Mapping) else (interval[0], interval[1])
    return {f"{name}_low": low, f"{name}_high": high}


def _place(column: str) -> int:
    """Sort key: who, quality, test quality, latency, other metrics, then how it went."""
    if column in LEADING:
        return LEADING.index(column)
    families = [prefix + metric for metric in QUALITY_METRICS for prefix in ("", "test_", "quick_")]
    families += [prefix + stem for stem in ("latency", *METRICS) for prefix in ("", ESTIMATED)]
    families += ["plan_digest", "error", "seconds_"]
    return 100 + next((index for index, family in enumerate(families) if column.startswith(family)), -1)
