"""The timing protocol: two models' speed compared in interleaved A-B-B-A blocks, calm ones only, with an interval.

This file is also what times on a board: Python 3.6 or newer, the standard library and nothing else.

* A block runs candidate, reference, reference, candidate, each turn a quarter of the block; the next one is mirrored,
  so that a turn's place in the block and what happens between two blocks hit both models alike. A turn's figure is the
  **lower quartile** of its calls, each timed by itself (reading the clock costs about 0.1 us): the first calls on cold
  caches and those that were interrupted do not count. A machine that slows steadily slows both alike.
* A block counts where the machine was **calm**, see :mod:`autocompress.measure.calm_blocks`: both models at their own
  calm level. Neither's luck decides alone, and a candidate with a slow mode of its own is not called calm.
* Where a neighbour comes and goes within a block, none is calm as a whole: where the policy allows it turns are then
  halved, down to a few calls each, and blocks of all lengths count together. While too few were calm the comparison
  goes on past its usual time.
* The result is the median of the calm blocks' log-ratios. Its interval is that of order statistics: exact for any
  distribution (binomial), interpolated between ranks (Hettmansperger and Sheather 1986). It is widened by
  ``sqrt((1 + r) / (1 - r))`` where blocks in a row are alike, ``r`` their lag-1 autocorrelation (Bayley and Hammersley
  1946), and computed at half the error allowed: comparing stops when the interval is narrow, and looking after every
  block costs coverage (``experiments/timing`` shows by how much).
"""

import gc
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from autocompress.measure.calm_blocks import FEWEST_FOR_INTERVAL, Blocks, Choice
from autocompress.measure.machine_state import difference, machine_state
from autocompress.measure.order_statistics import mean, quantile

Call = Callable[..., Any]
Clock = Callable[[], float]
Turn = Callable[[Call, int], List[float]]

#: Calls that a turn has at least once turns are halved: the first is on cold caches.
FEWEST_CALLS = 5
_WARM_DRIFT = 0.01
#: Whose turn it is: 0 the candidate's, 1 the reference's.
_STRAIGHT, _MIRRORED = (0, 1, 1, 0), (1, 0, 0, 1)
#: Turns are halved where fewer than half of so many blocks in a row were calm.
_BLOCKS_BEFORE_HALVING = 4
#: Looking at the blocks takes its time too: past so many blocks it is done after every second one, and so on.
_BLOCKS_A_LOOK = 32


def compare(
    candidate: Call,
    reference: Call,
    policy: Mapping[str, Any],
    *,
    clock: Clock = time.perf_counter,
    on_round: Optional[Callable[[int], None]] = None,
    turn: Optional[Turn] = None,
    state: Optional[Callable[[], Dict[str, Any]]] = None,
) -> Dict[str, Any]:
    """Time ``candidate`` against ``reference`` until the interval of their ratio is narrow.

    Args:
        candidate: runs one inference.
        reference: runs one inference of what it is compared with.
        policy: the fields of :class:`autocompress.core.measurement.TimingPolicy`; a calm level that it knows lets a
            comparison that falls wholly into a neighbour's busy spell notice.
        clock: seconds; another one makes the whole comparison a simulation.
        on_round: told the number of blocks after each.
        turn: gives the sorted milliseconds of so many calls; where a device times its own calls ``candidate`` and
            ``reference`` are whatever this takes. By ``clock`` where None.
        state: of the machine that runs them, see :func:`machine_state`; this one's where None.

    Returns:
        JSON values: ``candidate_ms`` and ``reference_ms``, one figure a block, ``kept``, ``ratio``,
        ``ratio_interval`` as ``[low, high, confidence]`` and ``details``: how long it took, why it stopped
        (``interval`` or ``time``), the calm levels and the tolerance around each, by how much the candidate's turns
        exceed its own in blocks that the reference calls calm (``candidate_excess``), ``calm``: whether
        ``min_blocks`` blocks were calm and that excess is tolerable, ``steady``: whether as many agree among
        themselves, percentiles of single calls, throughput, and what the machine did meanwhile.
    """
    timed = turn or (lambda call, repeats: _turn(call, repeats, clock))
    look = state or machine_state
    start = clock()
    before = look()
    blocks = Blocks(policy)
    with _collector_off():
        calls_ms = _warm_up(candidate, reference, policy, clock, timed)
        turn_ms = max(policy["block_ms"] / 4.0, *calls_ms)
        repeats = [max(1, round(turn_ms / max(call_ms, 1e-6))) for call_ms in calls_ms]
        warm = clock()
        pair = (candidate, reference)
        stopped, next_look, halved = "", 1, 0
        while not stopped:
            # Every other block is mirrored, B-A-A-B: what a place in the block costs hits both alike.
            order = _MIRRORED if len(blocks) % 2 else _STRAIGHT
            if max(repeats) > 1:
                # What was looked at between two blocks has cooled the caches for the first alone.
                timed(pair[order[0]], 1)
            turns = [timed(pair[who], repeats[who]) for who in order]
            if order is _MIRRORED:
                turns = [turns[1], turns[0], turns[3], turns[2]]
            blocks.add(turns)
            count, seconds = len(blocks), clock() - start
            if on_round is not None:
                on_round(count)
            if count < next_look and seconds < policy["max_seconds"] * policy["patience"]:
                continue
            next_look = count + 1 + count // _BLOCKS_A_LOOK
            choice = blocks.choose()
            stopped = _stop_reason(blocks, choice, policy, seconds)
            if policy["shortest_block_ms"] is not None and _is_restless(choice, halved):
                halved = count
                least_ms = policy["shortest_block_ms"] / 4.0
                fewest = [max(FEWEST_CALLS, round(least_ms / max(call_ms, 1e-6))) for call_ms in calls_ms]
                repeats = [min(now, max(least, now // 2)) for now, least in zip(repeats, fewest)]
        seconds = clock() - start
    kept = blocks.kept(choice)
    ratio, low, high = blocks.estimate(kept)
    details = {
        "stopped": stopped,
        "calm": sum(choice.calm) >= policy["min_blocks"] and blocks.candidate_at_level(choice),
        "steady": sum(blocks.choose(alone=True).calm) >= policy["min_blocks"],
        "calm_level_ms": blocks.reference_level.ms,
        "calm_tolerance": blocks.reference_level.tolerance,
        "candidate_level_ms": blocks.candidate_level.ms,
        "candidate_tolerance": blocks.candidate_level.tolerance,
        "candidate_excess": choice.candidate_excess,
        "rounds": len(kept),
        "rounds_kept": sum(kept),
        "calls_a_turn": {"candidate": repeats[0], "reference": repeats[1]},
        "warmup_seconds": warm - start,
        "seconds": seconds,
        "machine": difference(before, look()),
    }
    details.update(blocks.single_calls(kept))
    return {
        "candidate_ms": [mean(pair) for pair in blocks.candidate],
        "reference_ms": [mean(pair) for pair in blocks.reference],
        "kept": kept,
        "ratio": ratio,
        "ratio_interval": [low, high, policy["confidence"]],
        "details": details,
    }


def _stop_reason(blocks: Blocks, choice: Choice, policy: Mapping[str, Any], seconds: float) -> str:
    """Why comparing ends now; an empty text where it goes on."""
    count, is_level = sum(choice.calm), blocks.candidate_at_level(choice)
    if count >= max(policy["min_blocks"], FEWEST_FOR_INTERVAL) and is_level:
        ratio, low, high = blocks.estimate(choice.calm)
        if (high - low) / 2.0 <= policy["half_width"] * ratio:
            return "interval"
    patience = 1.0 if count >= policy["min_blocks"] and is_level else policy["patience"]
    return "time" if seconds >= policy["max_seconds"] * patience else ""


def _is_restless(choice: Choice, since: int) -> bool:
    """Whether most of the last few blocks were not calm, all of them later than block ``since``."""
    last = choice.calm[since:][-_BLOCKS_BEFORE_HALVING:]
    return len(last) == _BLOCKS_BEFORE_HALVING and sum(last) < _BLOCKS_BEFORE_HALVING / 2.0


def _turn(call: Call, repeats: int, clock: Clock) -> List[float]:
    """Sorted milliseconds of ``repeats`` calls."""
    times = []
    before = clock()
    for _ in range(repeats):
        call()
        after = clock()
        times.append((after - before) * 1e3)
        before = after
    times.sort()
    return times


def _warm_up(
    candidate: Call, reference: Call, policy: Mapping[str, Any], clock: Clock, turn: Turn
) -> Tuple[float, float]:
    """Run both in turn until neither gets faster or slower by 1%, or time is up; milliseconds a call of each."""
    end = clock() + policy["warmup_seconds"]
    slice_ms = policy["warmup_seconds"] * 1e3 / 16
    last = [quantile(turn(call, 1), 0.25) for call in (candidate, reference)]
    while clock() < end:
        now = [
            quantile(turn(call, max(1, round(slice_ms / max(ms, 1e-6)))), 0.25)
            for call, ms in zip((candidate, reference), last)
        ]
        steady = all(abs(a - b) <= _WARM_DRIFT * b for a, b in zip(now, last))
        last = now
        if steady:
            break
    return last[0], last[1]


@contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection in between: it would land in one turn or another by chance."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
