"""The timing protocol: two models' speed compared in interleaved A-B-B-A blocks, calm ones only, with an interval.

This file is also what times on a board: Python 3.6 or newer, the standard library and nothing else.

* A block runs candidate, reference, reference, candidate, each turn a quarter of the block; the next one is mirrored,
  so that a turn's place in the block and what happens between two blocks hit both models alike. A turn's figure is the
  **lower quartile** of its calls, each timed by itself (reading the clock costs about 0.1 us): the first calls on cold
  caches and those that were interrupted do not count. A machine that slows steadily slows both alike.
* A block counts where the **reference** ran at its calm level: its turns in the block and those just before and after
  lie within a tolerance of a low quantile of all turns. The tolerance follows the spread of the calm turns, because
  int8 slows down several times more than float32 under the same load. The candidate's own time never decides, or slow
  candidates would look fast. Turns of other blocks are asked too, so that blocks are not chosen for their own lucky
  reference; on a host that is calm a tenth of the time equal models still come out 0.4 to 0.9% apart
  (``experiments/timing``).
* Where a neighbour comes and goes within a block, none is calm as a whole: where the policy allows it turns are then
  halved, down to a few calls each, and blocks of all lengths count together. While too few were calm the comparison
  goes on past its usual time.
* The result is the median of the calm blocks' log-ratios. Its interval is that of order statistics: exact for any
  distribution (binomial), interpolated between ranks (Hettmansperger and Sheather 1986). It is widened by
  ``sqrt((1 + r) / (1 - r))`` where blocks in a row are alike, ``r`` their lag-1 autocorrelation (Bayley and Hammersley
  1946), and computed at half the error allowed: comparing stops when the interval is narrow, and looking after every
  block costs coverage (``experiments/timing`` shows by how much).
"""

import bisect
import gc
import math
import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Call = Callable[..., Any]
Clock = Callable[[], float]
Turn = Callable[[Call, int], List[float]]

#: The calm level is this quantile of the reference's turns: right while a fifth of them are undisturbed.
CALM_QUANTILE = 0.2
#: Calls that a turn has at least once turns are halved: the first is on cold caches.
FEWEST_CALLS = 5
#: Below this many calm blocks an order-statistic interval does not reach 95%; the extremes of single turns stand in.
FEWEST_FOR_INTERVAL = 6
_TIGHTEST, _SPREADS = 0.02, 3.0
_LOWEST_QUANTILE = 0.05
_WARM_DRIFT = 0.01
_STRONGEST_CORRELATION = 0.8
_BLOCKS_BEFORE_CORRELATION = 8
#: Whose turn it is: 0 the candidate's, 1 the reference's.
_STRAIGHT, _MIRRORED = (0, 1, 1, 0), (1, 0, 0, 1)
#: Turns are halved where fewer than half of so many blocks in a row were calm.
_BLOCKS_BEFORE_HALVING = 4


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
        (``interval`` or ``time``), the reference's calm level and the tolerance around it, by how much the candidate's
        turns exceed its own (``candidate_excess``), ``calm``: whether ``min_blocks`` blocks were calm and that excess
        is tolerable, ``steady``: whether as many agree among themselves, percentiles of single calls, throughput, and
        what the machine did meanwhile.
    """
    timed = turn or (lambda call, repeats: _turn(call, repeats, clock))
    look = state or machine_state
    start = clock()
    before = look()
    blocks = _Blocks(policy)
    with _collector_off():
        calls_ms = _warm_up(candidate, reference, policy, clock, timed)
        turn_ms = max(policy["block_ms"] / 4.0, *calls_ms)
        repeats = [max(1, round(turn_ms / max(call_ms, 1e-6))) for call_ms in calls_ms]
        warm = clock()
        pair = (candidate, reference)
        stopped = ""
        while not stopped:
            # Every other block is mirrored, B-A-A-B: what a place in the block costs hits both alike.
            order = _MIRRORED if len(blocks.candidate) % 2 else _STRAIGHT
            if max(repeats) > 1:
                # What was looked at between two blocks has cooled the caches for the first alone.
                timed(pair[order[0]], 1)
            turns = [timed(pair[who], repeats[who]) for who in order]
            if order is _MIRRORED:
                turns = [turns[1], turns[0], turns[3], turns[2]]
            blocks.add(turns)
            if on_round is not None:
                on_round(len(blocks.candidate))
            calm = blocks.calm()
            stopped = blocks.stop_reason(calm, clock() - start)
            if policy["shortest_block_ms"] is not None and _are_restless(calm):
                least_ms = policy["shortest_block_ms"] / 4.0
                fewest = [max(FEWEST_CALLS, round(least_ms / max(call_ms, 1e-6))) for call_ms in calls_ms]
                repeats = [min(count, max(least, count // 2)) for count, least in zip(repeats, fewest)]
        seconds = clock() - start
    kept = blocks.kept()
    ratio, low, high = blocks.estimate(kept)
    details = {
        "stopped": stopped,
        "calm": sum(blocks.calm()) >= policy["min_blocks"] and blocks.candidate_steady(kept),
        "steady": sum(blocks.calm(alone=True)) >= policy["min_blocks"],
        "calm_level_ms": blocks.level,
        "calm_tolerance": blocks.tolerance,
        "candidate_excess": blocks.candidate_excess(kept),
        "rounds": len(kept),
        "rounds_kept": sum(kept),
        "calls_a_turn": {"candidate": repeats[0], "reference": repeats[1]},
        "warmup_seconds": warm - start,
        "seconds": seconds,
        "machine": difference(before, look()),
    }
    details.update(blocks.single_calls(kept))
    return {
        "candidate_ms": [_mean(pair) for pair in blocks.candidate],
        "reference_ms": [_mean(pair) for pair in blocks.reference],
        "kept": kept,
        "ratio": ratio,
        "ratio_interval": [low, high, policy["confidence"]],
        "details": details,
    }


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Tuple[float, float]:
    """Order-statistic interval of the median, interpolated between ranks (Hettmansperger and Sheather 1986).

    Args:
        values: ``(n,)``; where n is too small for the confidence the interval is their whole range.
        confidence: share of such intervals that hold the true median.
    """
    ordered = sorted(values)
    count = len(ordered)
    rank, share = _rank(count, confidence)
    low, high = ordered[rank - 1], ordered[count - rank]
    if share > 0.0:
        low += share * (ordered[rank] - low)
        high -= share * (high - ordered[count - rank - 1])
    return low, high


def correlated_interval(values: Sequence[float], confidence: float = 0.95) -> Tuple[float, float]:
    """The same for values in order of time, widened where neighbours are alike."""
    middle = _quantile(sorted(values), 0.5)
    low, high = median_interval(values, confidence)
    widening = _widening(values, middle)
    return middle - (middle - low) * widening, middle + (high - middle) * widening


class _Blocks:
    """The blocks timed so far."""

    def __init__(self, policy: Mapping[str, Any]) -> None:
        self.policy = policy
        self.candidate = []  # type: List[Tuple[float, float]]
        self.reference = []  # type: List[Tuple[float, float]]
        self.level = self.tolerance = 0.0
        self._ordered = []  # type: List[float]
        self._calls = []  # type: List[Sequence[List[float]]]

    def add(self, turns: Sequence[List[float]]) -> None:
        """Take note of one block: the sorted milliseconds of the calls of its four turns."""
        first, second, third, fourth = (_quantile(turn, 0.25) for turn in turns)
        self.candidate.append((first, fourth))
        self.reference.append((second, third))
        self._calls.append(turns)
        for figure in (second, third):
            bisect.insort(self._ordered, figure)
        self.level = _quantile(self._ordered, CALM_QUANTILE)
        spread = 1.0 - _quantile(self._ordered, _LOWEST_QUANTILE) / self.level
        self.tolerance = min(max(_TIGHTEST, _SPREADS * spread), max(_TIGHTEST, self.policy["calm_tolerance"]))

    def calm(self, alone: bool = False) -> List[bool]:
        """Which blocks were calm; ``alone`` asks these blocks only, whatever level is known from before."""
        figures = self.reference
        limit = self.level * (1.0 + self.tolerance)
        outer = self.level * (1.0 + 2.0 * self.tolerance)
        known = math.inf
        if self.policy["calm_ms"] is not None and not alone:
            known = self.policy["calm_ms"] * (1.0 + self.policy["calm_tolerance"])
        found = []
        for index, pair in enumerate(figures):
            # The candidate's turns lie between two of the reference: before and after each the machine was calm.
            before, after = figures[max(0, index - 1)][1], figures[min(index + 1, len(figures) - 1)][0]
            near = sorted((before, *pair, after))
            found.append(_quantile(near, 0.5) <= min(limit, known) and near[-1] <= min(outer, known))
        return found

    def kept(self) -> List[bool]:
        """The calm blocks, or the calmest there were if none was calm."""
        calm = self.calm()
        if any(calm):
            return calm
        worst = [max(pair) for pair in self.reference]
        limit = min(worst) * (1.0 + self.tolerance)
        return [figure <= limit for figure in worst]

    def candidate_excess(self, kept: Sequence[bool]) -> float:
        """By which share the candidate's typical kept turn exceeds the low quantile of all its turns."""
        every = sorted(figure for pair in self.candidate for figure in pair)
        typical = sorted(figure for pair, keep in zip(self.candidate, kept) if keep for figure in pair)
        return _quantile(typical, 0.5) / _quantile(every, CALM_QUANTILE) - 1.0

    def candidate_steady(self, kept: Sequence[bool]) -> bool:
        """Whether the candidate too ran at one level."""
        return self.candidate_excess(kept) <= self.policy["calm_tolerance"]

    def estimate(self, kept: Sequence[bool]) -> Tuple[float, float, float]:
        """Median ratio of the kept blocks and the ends of its interval."""
        pairs = [(a, b) for a, b, keep in zip(self.candidate, self.reference, kept) if keep]
        logs = [math.log(_mean(a) / _mean(b)) for a, b in pairs]
        ratio = math.exp(_quantile(sorted(logs), 0.5))
        if len(logs) < FEWEST_FOR_INTERVAL:
            return ratio, min(min(a) / max(b) for a, b in pairs), max(max(a) / min(b) for a, b in pairs)
        low, high = correlated_interval(logs, 0.5 + self.policy["confidence"] / 2.0)
        return ratio, math.exp(low), math.exp(high)

    def stop_reason(self, calm: Sequence[bool], seconds: float) -> str:
        """Why comparing ends now; an empty text where it goes on."""
        if sum(calm) >= max(self.policy["min_blocks"], FEWEST_FOR_INTERVAL) and self.candidate_steady(calm):
            ratio, low, high = self.estimate(calm)
            if (high - low) / 2.0 <= self.policy["half_width"] * ratio:
                return "interval"
        patient = self.policy["patience"] if sum(calm) < self.policy["min_blocks"] else 1.0
        return "time" if seconds >= self.policy["max_seconds"] * patient else ""

    def single_calls(self, kept: Sequence[bool]) -> Dict[str, Any]:
        """Percentiles of the candidate's and the reference's calls in kept blocks, and inferences a second."""
        found = {}  # type: Dict[str, Any]
        for name, places in (("candidate", (0, 3)), ("reference", (1, 2))):
            calls = sorted(
                call for turns, keep in zip(self._calls, kept) if keep for place in places for call in turns[place]
            )
            found[name + "_calls_ms"] = {
                "p50": _quantile(calls, 0.5),
                "p90": _quantile(calls, 0.9),
                "p99": _quantile(calls, 0.99),
                "calls": len(calls),
            }
            found[name + "_inferences_per_second"] = len(calls) / (sum(calls) * 1e-3)
        return found


def _are_restless(calm: Sequence[bool]) -> bool:
    """Whether most of the last few blocks were not calm; asked after each block."""
    return (
        len(calm) % _BLOCKS_BEFORE_HALVING == 0 and sum(calm[-_BLOCKS_BEFORE_HALVING:]) < _BLOCKS_BEFORE_HALVING / 2.0
    )


def machine_state() -> Dict[str, Any]:
    """Clock, temperature, throttling, steal time and context switches, as far as the system tells them."""
    state = {"clock_mhz": _clock_mhz(), "temperature_c": _temperature_c()}  # type: Dict[str, Any]
    counter = "/sys/devices/system/cpu/cpu%d/thermal_throttle/core_throttle_count"
    state["throttle_count"] = sum(_number(counter % cpu) or 0 for cpu in range(os.cpu_count() or 1))
    fields = _read("/proc/stat").partition("\n")[0].split()
    state["steal_ticks"] = int(fields[8]) if len(fields) > 8 and fields[0] == "cpu" else None
    if resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        state["context_switches"] = [usage.ru_nvcsw, usage.ru_nivcsw]
    state["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return state


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Dict[str, Any]:
    """What changed between two states; clock and temperature at both ends."""
    old, new = before.get("context_switches"), after.get("context_switches")
    stolen = before["steal_ticks"], after["steal_ticks"]
    return {
        "clock_mhz": [before["clock_mhz"], after["clock_mhz"]],
        "temperature_c": [before["temperature_c"], after["temperature_c"]],
        "throttled": after["throttle_count"] - before["throttle_count"],
        "steal_ticks": None if None in stolen else stolen[1] - stolen[0],
        "context_switches": None if old is None or new is None else [b - a for a, b in zip(old, new)],
        "load": after["load"],
    }


def _clock_mhz() -> Optional[float]:
    exact = _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if exact is not None:
        return exact / 1e3
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def _temperature_c() -> Optional[float]:
    millis = _number("/sys/class/thermal/thermal_zone0/temp")
    return None if millis is None else millis / 1e3


def _number(path: str) -> Optional[float]:
    try:
        return float(_read(path))
    except ValueError:
        return None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


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
    last = [_quantile(turn(call, 1), 0.25) for call in (candidate, reference)]
    while clock() < end:
        now = [
            _quantile(turn(call, max(1, round(slice_ms / max(ms, 1e-6)))), 0.25)
            for call, ms in zip((candidate, reference), last)
        ]
        steady = all(abs(a - b) <= _WARM_DRIFT * b for a, b in zip(now, last))
        last = now
        if steady:
            break
    return last[0], last[1]


def _rank(count: int, confidence: float) -> Tuple[int, float]:
    """Rank of the interval's lower end, from 1, and how far to go to the next one."""
    coverage = []  # type: List[float]
    below, choose = 0.0, 1.0
    for rank in range(1, (count + 1) // 2 + 1):
        # The interval from the rank-th smallest to the rank-th largest misses with P(Binomial(n, 1/2) < rank), twice.
        below += choose * 0.5**count
        choose = choose * (count - rank + 1) / rank
        coverage.append(1.0 - 2.0 * below)
        if coverage[-1] < confidence:
            break
    last = len(coverage)
    if last == 1 or coverage[-1] >= confidence:
        return last, 0.0
    outer, inner, rank = coverage[-2], coverage[-1], last - 1
    share = (outer - confidence) / (outer - inner)
    return rank, (count - rank) * share / (rank + (count - 2 * rank) * share)


def _widening(values: Sequence[float], middle: float) -> float:
    count = len(values)
    if count < _BLOCKS_BEFORE_CORRELATION:
        return 1.0
    apart = [value - middle for value in values]
    typical = 1.4826 * _quantile(sorted(abs(value) for value in apart), 0.5)
    if typical <= 0.0:
        return 1.0
    # Single outliers neither make nor hide a correlation.
    clipped = [min(max(value / typical, -2.5), 2.5) for value in apart]
    mean = sum(clipped) / count
    clipped = [value - mean for value in clipped]
    square = sum(value * value for value in clipped)
    found = sum(a * b for a, b in zip(clipped, clipped[1:])) / square if square > 0.0 else 0.0
    # An estimate from n values is about 1 / n too low.
    r = min(max(found + 1.0 / count, 0.0), _STRONGEST_CORRELATION)
    return math.sqrt((1.0 + r) / (1.0 - r))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, linear between them."""
    index, rest = divmod(share * (len(ordered) - 1), 1.0)
    low = ordered[int(index)]
    return low + (ordered[min(int(index) + 1, len(ordered) - 1)] - low) * rest


def _mean(pair: Sequence[float]) -> float:
    return sum(pair) / len(pair)


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
