"""Comparisons made again, after all others and so in another minute, where the machine was busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from autocompress.core.errors import AutocompressError
from autocompress.core.measurement import TimingPolicy
from autocompress.measure.calm_levels import CalmLevels, disturbance
from autocompress.measure.file_timing import FileTiming

#: Times one file: its place, the policy, and whether an earlier measurement may stand for it.
Measure = Callable[[int, TimingPolicy, bool], FileTiming]


def in_passes(
    count: int,
    measure: Measure,
    policy: TimingPolicy,
    *,
    levels: CalmLevels | None,
    passes: int,
    seconds: float = math.inf,
    lanes: int = 1,
) -> list[FileTiming]:
    """Time each of several files; again those that this or a later comparison shows to have been disturbed.

    Args:
        count: files.
        measure: times one; an earlier measurement is no answer to a repeat.
        policy: of each comparison.
        levels: what is known of the reference, and learns from each comparison; None where several devices time, whose
            levels say nothing about each other.
        passes: how often a file is timed at most.
        seconds: for all passes; the first is made in any case.
        lanes: comparisons at once.

    Returns:
        The least disturbed timing of each file; ``details["calm"]`` is what is known in the end.
    """
    start, longest = time.monotonic(), 0.0

    def timed(place: int, *, is_first: bool) -> FileTiming:
        nonlocal longest
        begun = time.monotonic()
        timing = measure(place, policy if levels is None else levels.known_to(policy), is_first)
        longest = max(longest, time.monotonic() - begun)
        if levels is not None and not timing.is_cached:
            levels.note(timing.paired.kept_reference_ms, timing.details)
        return timing

    def disturbed(timing: FileTiming) -> tuple[bool, float]:
        # What was kept from before was calm in its time.
        return (False, 0.0) if timing.is_cached else disturbance(timing.details, levels, policy)

    def least(place: int) -> FileTiming:
        return min(found[place], key=disturbed)

    with ThreadPoolExecutor(max_workers=lanes) as pool:
        # One at a time they run in this thread, which a user may interrupt.
        run = map if lanes == 1 else pool.map
        found = [[timing] for timing in run(lambda place: timed(place, is_first=True), range(count))]
        for _ in range(passes - 1):
            left = seconds - (time.monotonic() - start)
            fitting = lanes * int(min(max(0.0, left / max(longest, 1e-3)), count))
            waiting = [place for place in range(count) if disturbed(least(place))[0]][:fitting]
            try:
                for place, timing in zip(
                    waiting, run(lambda place: timed(place, is_first=False), waiting), strict=True
                ):
                    found[place].append(timing)
            except AutocompressError:
                # Stopped, or a device is lost: every file has its timing already.
                break
    last = [least(place) for place in range(count)]
    return [replace(timing, details={**timing.details, "calm": not disturbed(timing)[0]}) for timing in last]
