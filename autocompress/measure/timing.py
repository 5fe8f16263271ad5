"""The timing protocol of :mod:`autocompress.measure.rounds` in this package's types."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.measurement import Interval, PairedTiming, TimingPolicy
from autocompress.measure import order_statistics, rounds

Call = Callable[[], None]
Clock = Callable[[], float]


def compare(
    candidate: Call,
    reference: Call,
    policy: TimingPolicy,
    *,
    clock: Clock = time.perf_counter,
) -> PairedTiming:
    """Time ``candidate`` against ``reference`` until the interval of their ratio is narrow.

    Args:
        candidate: runs one inference.
        reference: runs one inference of what it is compared with.
        policy: block length, when to stop, what counts as calm.
        clock: seconds; another one makes the whole comparison a simulation.

    Returns:
        What :func:`autocompress.measure.rounds.compare` found.
    """
    found = rounds.compare(candidate, reference, asdict(policy), clock=clock)
    return paired_timing(found)


def paired_timing(found: Mapping[str, Any]) -> PairedTiming:
    """The result of one comparison, made here or on a device, as a value.

    Raises:
        ValueError: it lacks blocks.
        KeyError: it lacks a part.
    """
    low, high, confidence = found["ratio_interval"]
    return PairedTiming(
        candidate_ms=tuple(found["candidate_ms"]),
        reference_ms=tuple(found["reference_ms"]),
        kept=tuple(found["kept"]),
        ratio=found["ratio"],
        ratio_interval=Interval(low=low, high=high, confidence=confidence),
        details=dict(found["details"]),
    )


def median_interval(values: Sequence[float] | NDArray[np.float64], *, confidence: float = 0.95) -> Interval:
    """Order-statistic interval of the median of independent values; see :mod:`autocompress.measure.order_statistics`.

    Args:
        values: ``(n,)``; with fewer than six the interval is their whole range.
        confidence: share of such intervals that should hold the true median.
    """
    low, high = order_statistics.median_interval([float(value) for value in values], confidence)
    return Interval(low=low, high=high, confidence=confidence)
