"""Coefficients fitted to published latencies, as they ship, with the error they had on models they never saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "data" / "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One fit.

    Args:
        threads: None where the sources do not tell.
        models: how many were compared.
        median_error: median of abs(estimate / published - 1) on architectures that were not fitted.
        worst_error: the largest.
        spearman: rank correlation of the same.
        error_factor: 95% of the same are within this factor.
        coefficients: milliseconds an amount of each entry of a workload vector.
        held_out: architecture to the coefficients of a fit that never saw it: what the errors above were found with.
    """

    target: str
    runtime: str
    threads: int | None
    precision: str
    models: int
    median_error: float
    worst_error: float
    spearman: float | None
    error_factor: float
    coefficients: tuple[float, ...]
    held_out: Mapping[str, tuple[float, ...]]


@cache
def calibrations() -> tuple[Calibration, ...]:
    """Every fit that ships; made by ``experiments/profile_validation/run.py``."""
    if not _FILE.is_file():
        return ()
    return tuple(Calibration(**entry) for entry in json.loads(_FILE.read_text(encoding="utf-8"))["fits"])


def calibration(target: str, runtime: str, threads: int | None, precision: str) -> Calibration | None:
    """The fit for a target, runtime, thread count and precision.

    Where sources do not tell their threads, their fit stands for the profile's count.
    """
    found = {c.threads: c for c in calibrations() if (c.target, c.runtime, c.precision) == (target, runtime, precision)}
    return found.get(threads) or found.get(None)
