"""Compare two callables' speed: interleaved A-B-B-A rounds, calm rounds only, a bootstrap interval of the ratio.

How one round is read:

* A block calls one model again and again and takes the **lower quartile** of its calls, each timed by itself (reading
  the clock costs about 0.1 us): the first calls on cold caches and those that were interrupted do not count.
* A round is candidate, reference, reference, candidate; each model's figure is the mean of its two blocks, so a
  machine that slows steadily slows both alike and leaves the ratio alone.
* A round counts where both of its **reference** blocks ran at the calm level: within ``calm_tolerance`` of a low
  quantile of all reference blocks. The candidate's own time never decides, or slow candidates would look fast; where
  it keeps jumping although the reference is calm, comparing goes on until time is up and says that it was not calm.
* The result is the median of the kept rounds' log-ratios with a percentile-bootstrap interval (Efron & Tibshirani
  1993, chapter 13); comparing ends when it is narrow, or when time is up.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autocompress.core.measurement import Interval, PairedTiming, TimingPolicy

Call = Callable[[], None]
Clock = Callable[[], float]

#: The calm level is this quantile of the reference's block times: right while a fifth of them are undisturbed.
CALM_QUANTILE = 0.2
#: Below this many kept rounds a bootstrap of the median says nothing; the extremes of single blocks stand in.
FEWEST_FOR_BOOTSTRAP = 4
_RESAMPLES = 1000
_WARM_DRIFT = 0.01


def compare(
    candidate: Call,
    reference: Call,
    policy: TimingPolicy,
    *,
    clock: Clock = time.perf_counter,
    rng: np.random.Generator | None = None,
    calm_ms: float | None = None,
) -> PairedTiming:
    """Time ``candidate`` against ``reference`` until the interval of their ratio is narrow.

    Args:
        candidate: runs one inference.
        reference: runs one inference of what it is compared with.
        policy: block length, when to stop, what counts as calm.
        clock: seconds; another one makes the whole comparison a simulation.
        rng: of the bootstrap; a fixed seed where None.
        calm_ms: the reference's calm level if it is known from before, milliseconds; it lets a comparison that falls
            wholly into a neighbour's busy spell notice. The lower of it and the level seen here counts.

    Returns:
        The rounds, which of them were calm, the ratio and its interval. ``details`` says how long it took, why it
        stopped (``interval`` or ``time``), the reference's calm level, by how much the candidate's blocks exceed its
        own (``candidate_excess``), and ``calm``: whether ``min_blocks`` rounds were calm and that excess is tolerable.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    start = clock()
    with _collector_off():
        candidate_call_ms, reference_call_ms = _warm_up(candidate, reference, policy, clock)
        block_ms = max(policy.block_ms, candidate_call_ms, reference_call_ms)
        repeats = (_repeats(block_ms, candidate_call_ms), _repeats(block_ms, reference_call_ms))
        warm = clock()
        rounds = _Rounds(policy=policy, calm_ms=calm_ms)
        stopped = ""
        while not stopped:
            first = _block(candidate, repeats[0], clock)
            second = _block(reference, repeats[1], clock)
            third = _block(reference, repeats[1], clock)
            fourth = _block(candidate, repeats[0], clock)
            rounds.add((first, fourth), (second, third))
            stopped = _stop_reason(rounds, policy, rng, clock() - start)
        seconds = clock() - start
    kept = rounds.kept()
    ratio, interval = rounds.estimate(kept, rng)
    return PairedTiming(
        candidate_ms=tuple(rounds.candidate_ms.tolist()),
        reference_ms=tuple(rounds.reference_ms.tolist()),
        kept=tuple(kept.tolist()),
        ratio=ratio,
        ratio_interval=interval,
        details={
            "stopped": stopped,
            "calm": int(rounds.calm().sum()) >= policy.min_blocks and rounds.candidate_steady(kept),
            "calm_level_ms": rounds.level,
            "candidate_excess": rounds.candidate_excess(kept),
            "rounds": len(kept),
            "rounds_kept": int(kept.sum()),
            "calls_a_block": {"candidate": repeats[0], "reference": repeats[1]},
            "warmup_seconds": warm - start,
            "seconds": seconds,
        },
    )


def median_interval(
    values: Sequence[float] | NDArray[np.float64], *, rng: np.random.Generator | None = None, confidence: float = 0.95
) -> Interval:
    """Percentile-bootstrap interval of the median.

    Args:
        values: ``(n,)``; with fewer than four the interval is their whole range.
        rng: of the resampling; a fixed seed where None.
        confidence: share of such intervals that should hold the true median.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) < FEWEST_FOR_BOOTSTRAP:
        return Interval(low=float(data.min()), high=float(data.max()), confidence=confidence)
    rng = np.random.default_rng(0) if rng is None else rng
    draws = rng.integers(len(data), size=(_RESAMPLES, len(data)))
    medians = np.median(data[draws], axis=1)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1.0 - tail])
    return Interval(low=float(low), high=float(high), confidence=confidence)


@dataclass(slots=True)
class _Rounds:
    """The blocks timed so far, two of each model a round."""

    policy: TimingPolicy
    calm_ms: float | None
    candidate_blocks: list[tuple[float, float]] = field(default_factory=list)
    reference_blocks: list[tuple[float, float]] = field(default_factory=list)

    def add(self, candidate: tuple[float, float], reference: tuple[float, float]) -> None:
        self.candidate_blocks.append(candidate)
        self.reference_blocks.append(reference)

    @property
    def candidate_ms(self) -> NDArray[np.float64]:
        """``(rounds,)`` mean of the two blocks."""
        return np.asarray(self.candidate_blocks, dtype=np.float64).mean(axis=1)

    @property
    def reference_ms(self) -> NDArray[np.float64]:
        """``(rounds,)`` mean of the two blocks."""
        return np.asarray(self.reference_blocks, dtype=np.float64).mean(axis=1)

    @property
    def level(self) -> float:
        """The reference's calm level, milliseconds a call."""
        seen = float(np.quantile(np.asarray(self.reference_blocks), CALM_QUANTILE))
        return seen if self.calm_ms is None else min(seen, self.calm_ms)

    def calm(self) -> NDArray[np.bool_]:
        """``(rounds,)``: whether both reference blocks were at the calm level."""
        worst = np.asarray(self.reference_blocks).max(axis=1)
        return np.asarray(worst <= self.level * (1.0 + self.policy.calm_tolerance))

    def kept(self) -> NDArray[np.bool_]:
        """``(rounds,)``: the calm rounds, or the calmest there were if none was calm."""
        calm = self.calm()
        if calm.any():
            return calm
        worst = np.asarray(self.reference_blocks).max(axis=1)
        return np.asarray(worst <= worst.min() * (1.0 + self.policy.calm_tolerance))

    def candidate_excess(self, kept: NDArray[np.bool_]) -> float:
        """By which share the candidate's typical kept block exceeds the low quantile of all its blocks."""
        blocks = np.asarray(self.candidate_blocks, dtype=np.float64)
        return float(np.median(blocks[kept]) / np.quantile(blocks, CALM_QUANTILE)) - 1.0

    def candidate_steady(self, kept: NDArray[np.bool_]) -> bool:
        """Whether the candidate too ran at one level."""
        return self.candidate_excess(kept) <= self.policy.calm_tolerance

    def estimate(self, kept: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, Interval]:
        """Median ratio of the kept rounds and its interval."""
        logs = np.log(self.candidate_ms / self.reference_ms)[kept]
        confidence = self.policy.confidence
        ratio = math.exp(float(np.median(logs)))
        if len(logs) >= FEWEST_FOR_BOOTSTRAP:
            found = median_interval(logs, rng=rng, confidence=confidence)
            return ratio, Interval(low=math.exp(found.low), high=math.exp(found.high), confidence=confidence)
        blocks, others = np.asarray(self.candidate_blocks)[kept], np.asarray(self.reference_blocks)[kept]
        return ratio, Interval(
            low=float((blocks.min(axis=1) / others.max(axis=1)).min()),
            high=float((blocks.max(axis=1) / others.min(axis=1)).max()),
            confidence=confidence,
        )


def _stop_reason(rounds: _Rounds, policy: TimingPolicy, rng: np.random.Generator, seconds: float) -> str:
    calm = rounds.calm()
    if calm.sum() >= max(policy.min_blocks, FEWEST_FOR_BOOTSTRAP) and rounds.candidate_steady(calm):
        ratio, interval = rounds.estimate(calm, rng)
        if interval.half_width <= policy.half_width * ratio:
            return "interval"
    return "time" if seconds >= policy.max_seconds else ""


def _block(call: Call, repeats: int, clock: Clock) -> float:
    """Lower quartile of the milliseconds of ``repeats`` calls."""
    times = []
    before = clock()
    for _ in range(repeats):
        call()
        after = clock()
        times.append(after - before)
        before = after
    times.sort()
    index, share = divmod(repeats - 1, 4)
    low = times[index]
    return (low + (times[min(index + 1, repeats - 1)] - low) * share / 4) * 1e3


def _warm_up(candidate: Call, reference: Call, policy: TimingPolicy, clock: Clock) -> tuple[float, float]:
    """Run both in turn until neither gets faster or slower by 1%, or time is up; milliseconds a call of each."""
    end = clock() + policy.warmup_seconds
    slice_ms = policy.warmup_seconds * 1e3 / 16
    last = (_block(candidate, 1, clock), _block(reference, 1, clock))
    while clock() < end:
        now = (
            _block(candidate, _repeats(slice_ms, last[0]), clock),
            _block(reference, _repeats(slice_ms, last[1]), clock),
        )
        steady = all(abs(a - b) <= _WARM_DRIFT * b for a, b in zip(now, last, strict=True))
        last = now
        if steady:
            break
    return last


def _repeats(block_ms: float, call_ms: float) -> int:
    return max(1, round(block_ms / max(call_ms, 1e-6)))


@contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection in between: it would land in one block or another by chance."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
