"""Interleaved timing and small tables for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.measure.timing import median_interval

Times = dict[str, NDArray[np.float64]]


class Stopwatch:
    """Adds up the seconds of named stages, a round at a time."""

    def __init__(self) -> None:
        self._rounds: list[dict[str, float]] = []

    def new_round(self) -> None:
        self._rounds.append({})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            now = self._rounds[-1]
            now[name] = now.get(name, 0.0) + time.perf_counter() - started

    def times(self) -> Times:
        """Stage to ``(rounds,)`` seconds; a stage that a round lacks took none."""
        names = dict.fromkeys(name for found in self._rounds for name in found)
        return {name: np.array([found.get(name, 0.0) for found in self._rounds]) for name in names}


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> Times:
    """Seconds of each call, ``(rounds,)``: all of them each round, forwards and backwards in turn."""
    watch = Stopwatch()
    for index in range(warmup + rounds):
        if index >= warmup:
            watch.new_round()
        for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
            if index < warmup:
                calls[name]()
                continue
            with watch.stage(name):
                calls[name]()
    return watch.times()


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median and its 95% interval."""
    found = median_interval(values)
    return float(np.median(values)), found.low, found.high


def ratio(times: NDArray[np.float64], reference: NDArray[np.float64]) -> str:
    """Median of the paired ratios, with its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*interval(times / reference))


def milliseconds(times: NDArray[np.float64]) -> str:
    """Median, with its interval."""
    return "{:.1f} ({:.1f} to {:.1f})".format(*interval(times * 1e3))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned table."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(f"\n{title}")
    for row in (header, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
