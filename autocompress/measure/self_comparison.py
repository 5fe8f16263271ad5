"""A model timed against itself, many times (an A/A test): how often the timer finds a difference where there is none.

Run as a module it answers one request in a fresh process, as :mod:`autocompress.measure.fresh_process` does.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from autocompress.core.binomial import wilson
from autocompress.core.errors import AutocompressError, CandidateError, ModelError, UserError
from autocompress.core.measurement import CAREFUL, PairedTiming, TimingPolicy
from autocompress.core.protocols import Runtime
from autocompress.measure.calm_blocks import FEWEST_FOR_INTERVAL
from autocompress.measure.fresh_process import FreshRuntime
from autocompress.measure.latency import now, runtime_title
from autocompress.measure.transports.local import Transport, ask_module, open_transport

#: A difference that a user would act on.
NOTABLE = 0.01
#: Largest share of false alarms that a timer may have: that of intervals at 95%, twice, as far as runs can tell.
ALLOWED, DOUBTFUL = 0.05, 0.10
_START_SECONDS = 120.0


def compare_with_itself(
    path: str | PathLike[str],
    *,
    runs: int = 10,
    threads: int = 1,
    policy: TimingPolicy = CAREFUL,
    affinity: Sequence[int] | None = None,
    transport: Transport | None = None,
    fresh: FreshRuntime | None = None,
) -> dict[str, Any]:
    """Time a model file against itself, ``runs`` times in one fresh process; each loads it twice anew.

    Args:
        path: of the model file.
        runs: comparisons.
        threads: of one inference.
        policy: of each comparison.
        affinity: cores of this machine to stay on; all where None.
        transport: what starts processes on this machine.
        fresh: makes a runtime on an attached device; this machine where None.

    Returns:
        ``comparisons`` with what :func:`summary` makes of them, ``path``, ``runtime``, ``fingerprint``, ``threads``,
        ``affinity``, ``policy`` and ``when``.

    Raises:
        UserError: no run, a file that is missing or cannot be loaded or run.
    """
    if runs < 1:
        raise UserError(f"--runs must be at least 1, but got {runs}.")
    if not Path(path).is_file():
        raise ModelError(f"There is no model file {str(path)!r}.")
    if fresh is not None:
        try:
            with fresh() as runtime:
                return {"path": str(path), **_compare(runtime, str(path), runs, policy)}
        except CandidateError as error:
            raise ModelError(f"{str(path)!r}: {error.reason}") from error
    device = open_transport() if transport is None else transport
    request = {
        "path": str(Path(path).resolve()),
        "runs": runs,
        "threads": threads,
        "affinity": None if affinity is None else list(affinity),
        "policy": asdict(policy),
    }
    limit = runs * (policy.longest_seconds + policy.warmup_seconds) + _START_SECONDS
    found = ask_module(device, __name__, request, timeout_seconds=limit, subject=str(path))
    if "error" in found:
        raise ModelError(f"{str(path)!r}: {found['error']}")
    return {"path": str(path), **found}


def summary(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a series of comparisons of equal models says of the timer.

    A comparison that kept fewer blocks than an interval of the median takes can tell nothing: it counts among ``runs``
    and among no share but ``calm_share`` and ``kept_share``.

    Args:
        comparisons: with ``ratio``, ``ratio_interval``, ``calm``, ``kept_share``, ``rounds_kept``.

    Returns:
        ``told`` (runs that can tell), ``false_alarm_share`` (the interval excludes 1), ``notable_share`` (the ratio is
        1% or more from 1), ``false_difference_share`` (both: a difference of 1% or more would be reported), None where
        no run can tell; ``false_alarm_interval`` and ``false_difference_interval`` at 95%
        (:func:`~autocompress.core.binomial.wilson`); ``verdict``, see :func:`verdict`; ``median_half_width`` of the
        intervals as a share of the ratio, ``worst_ratio``, ``calm_share`` (of runs that the timer calls calm) and
        ``kept_share`` (of rounds).
    """
    told = [c for c in comparisons if c["rounds_kept"] >= FEWEST_FOR_INTERVAL]
    alarms = [not c["ratio_interval"][0] <= 1.0 <= c["ratio_interval"][1] for c in told]
    notable = [abs(c["ratio"] - 1.0) >= NOTABLE for c in told]
    both = [a and b for a, b in zip(alarms, notable, strict=True)]
    return {
        "runs": len(comparisons),
        "told": len(told),
        "false_alarm_share": _share(alarms),
        "false_alarm_interval": _interval(alarms),
        "notable_share": _share(notable),
        "false_difference_share": _share(both),
        "false_difference_interval": _interval(both),
        "verdict": verdict(sum(alarms), len(told)),
        "median_half_width": statistics.median(
            (c["ratio_interval"][1] - c["ratio_interval"][0]) / 2 / c["ratio"] for c in comparisons
        ),
        "worst_ratio": max((c["ratio"] for c in comparisons), key=lambda ratio: abs(ratio - 1.0)),
        "calm_share": statistics.mean(bool(c["calm"]) for c in comparisons),
        "kept_share": statistics.mean(c["kept_share"] for c in comparisons),
    }


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compare in this process, as :func:`compare_with_itself` asks for it; ``error`` with the reason where it fails."""
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    try:
        runtime = OnnxRuntime(threads=request["threads"], affinity=request["affinity"])
        return _compare(runtime, request["path"], request["runs"], TimingPolicy(**request["policy"]))
    except CandidateError as error:
        return {"error": error.reason}
    except AutocompressError as error:
        return {"error": str(error)}


def verdict(alarms: int, runs: int) -> str:
    """``good``, ``bad`` or ``cannot tell``: whether false alarms are as rare as intervals at 95% promise.

    Args:
        alarms: comparisons whose interval excludes 1.
        runs: comparisons that can tell.
    """
    if runs:
        interval = wilson(alarms / runs, runs)
        if interval.low > ALLOWED:
            return "bad"
        if interval.high <= DOUBTFUL:
            return "good"
    return "cannot tell"


def runs_needed() -> int:
    """Runs without a false alarm after which a timer is good."""
    return next(n for n in itertools.count(1) if verdict(0, n) == "good")


def _share(found: Sequence[bool]) -> float | None:
    return statistics.mean(found) if found else None


def _interval(found: Sequence[bool]) -> list[float] | None:
    if not found:
        return None
    interval = wilson(statistics.mean(found), len(found))
    return [interval.low, interval.high, interval.confidence]


def compare(runtime: Runtime, model: Any, runs: int, policy: TimingPolicy) -> list[dict[str, Any]]:
    """Time a model against itself in this process.

    Args:
        runtime: what times it.
        model: whatever the runtime builds.
        runs: comparisons; each loads it twice anew, as where a session's memory happens to lie is part of the noise.
        policy: of each comparison.
    """
    return [_record(runtime.time(runtime.build(model), runtime.build(model), policy)) for _ in range(runs)]


def _compare(runtime: Runtime, path: str, runs: int, policy: TimingPolicy) -> dict[str, Any]:
    comparisons = compare(runtime, path, runs, policy)
    about = runtime.describe()
    return {
        **summary(comparisons),
        "comparisons": comparisons,
        "runtime": runtime_title(about),
        "fingerprint": about["fingerprint"],
        "threads": about["threads"],
        "affinity": about.get("affinity"),
        "policy": asdict(policy),
        "when": now(),
    }


def _record(timing: PairedTiming) -> dict[str, Any]:
    interval, details = timing.ratio_interval, timing.details
    return {
        "ratio": timing.ratio,
        "ratio_interval": [interval.low, interval.high, interval.confidence],
        "calm": bool(details.get("calm", True)),
        "kept_share": timing.kept_share,
        **{name: details.get(name) for name in ("stopped", "rounds", "seconds", "machine")},
        "rounds_kept": int(details.get("rounds_kept", sum(timing.kept))),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))) + "\n")
