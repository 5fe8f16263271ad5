"""The end of a search: the front's files on the test set, and timed again from fresh processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autocompress.core.errors import Interrupted
from autocompress.core.measurement import CAREFUL, TimingPolicy
from autocompress.core.protocols import Batch, Runtime
from autocompress.core.trial import Trial
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.finalists import quality_with_test, remeasure
from autocompress.evaluate.latency import SHORTEST_BLOCK_MS
from autocompress.measure.calm_levels import CalmLevels
from autocompress.measure.fresh_process import FreshRuntime
from autocompress.measure.store import MeasurementStore
from autocompress.store.front_keeper import FrontKeeper

#: Share of a time budget for measuring the front again, at most.
FINAL_SHARE = 0.15
#: Seconds besides the timing itself that one file takes: a fresh process loads two models.
_FRESH_START = 1.0
_SHORTEST = 1.0
#: Share of a short time for timing each file once; the rest is for what a busy machine disturbed.
_FIRST_SHARE = 0.6
#: Times that a disturbed comparison is made at most.
_PASSES = 4
#: What all passes take at most where there is no budget, in times of the first.
_WITHOUT_BUDGET = 1.5
Finalist = tuple[Trial, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told of each file, and asked whether to stop.

    Args:
        on_stage: called with a trial number (-1), a label and a stage.
        should_stop: asked before each file.
    """

    on_stage: Callable[[int, str, str], None]
    should_stop: Callable[[], bool]


def score_on_test_set(
    finalists: Sequence[Finalist], quality: QualityEvaluator | None, runtime: Runtime, watch: Watch
) -> list[Finalist]:
    """Note the quality of the very files on the test set.

    Args:
        finalists: trials with their files.
        quality: of the test set; None where there is none.
        runtime: that runs the files.
        watch: told of each file.

    Raises:
        Interrupted: the user asked to stop.
    """
    if quality is None:
        return list(finalists)
    found = []
    for trial, path in finalists:
        if watch.should_stop():
            raise Interrupted
        watch.on_stage(-1, trial.candidate.label, f"test {quality.metric}")
        found.append((quality_with_test(trial, quality.metric, quality.score(runtime.build(path))), path))
    return found


def measure_again(
    finalists: Sequence[Finalist],
    baseline: Path,
    *,
    reference_ms: float,
    target: str,
    threads: int,
    sample: Batch,
    budget_seconds: float | None,
    watch: Watch,
    affinity: Sequence[int] | None = None,
    fresh: FreshRuntime | None = None,
    store: MeasurementStore | None = None,
    lanes: int = 1,
    levels: CalmLevels | None = None,
    seconds_left: float = math.inf,
) -> list[Finalist]:
    """Time each file against the uncompressed model's in a process of its own, within the time kept for it.

    ``levels`` is what is known of the uncompressed model on the one device that times. With several ``lanes`` as many
    files are timed at once, each beside the uncompressed model on one device. What is disturbed is timed again within
    ``seconds_left``.

    Raises:
        Interrupted: the user asked to stop.
    """
    rounds = math.ceil(len(finalists) / lanes)
    trials = remeasure(
        finalists,
        baseline,
        reference_ms=reference_ms,
        target=target,
        threads=threads,
        policy=_policy(budget_seconds, rounds),
        sample=sample,
        affinity=affinity,
        fresh=fresh,
        store=store,
        levels=levels,
        lanes=lanes,
        passes=_PASSES,
        seconds=min(seconds_left, _seconds_for_all(budget_seconds, rounds)),
        on_file=lambda trial: watch.on_stage(-1, trial.candidate.label, "time again"),
        should_stop=watch.should_stop,
    )
    return [(trial, path) for trial, (_, path) in zip(trials, finalists, strict=True)]


def reserve_seconds(budget_seconds: float, keeper: FrontKeeper, *, measured: bool) -> float:
    """Seconds to keep back for the end of a search."""
    each = _FRESH_START + CAREFUL.longest_seconds if measured else 0.5
    return min(FINAL_SHARE * budget_seconds, keeper.pending * each)


def busy_message(finalists: Sequence[Finalist]) -> str | None:
    """One line on latencies that a busy machine left in doubt; None where there are none."""
    details = {trial.number: trial.measurements["latency_ms"].details for trial, _ in finalists}
    busy = [str(number) for number, about in details.items() if not about.get("calm", True)]
    kept = [str(number) for number, about in details.items() if "disturbed" in about and str(number) not in busy]
    parts = []
    if busy:
        parts.append(f"whenever trial {', '.join(busy)} was timed: `autocompress measure` may find less latency")
    if kept:
        parts.append(f"when trial {', '.join(kept)} was timed again: the figure is that of the search itself")
    return f"The machine was busy {'; and '.join(parts)}." if parts else None


def _seconds_for_all(budget_seconds: float | None, count: int) -> float:
    if budget_seconds is None:
        return _WITHOUT_BUDGET * count * (CAREFUL.longest_seconds + _FRESH_START)
    return FINAL_SHARE * budget_seconds


def _policy(budget_seconds: float | None, count: int) -> TimingPolicy:
    """How long each comparison may take, so that ``count`` of them leave some of the time kept for repeats."""
    if budget_seconds is None:
        return CAREFUL
    seconds = max(_SHORTEST, _FIRST_SHARE * FINAL_SHARE * budget_seconds / count - _FRESH_START)
    if seconds > 8:
        return replace(CAREFUL, max_seconds=min(CAREFUL.max_seconds, seconds / CAREFUL.patience))
    return replace(CAREFUL, max_seconds=seconds, block_ms=80.0, patience=1.0, shortest_block_ms=SHORTEST_BLOCK_MS)
