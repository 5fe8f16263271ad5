"""``measure``: model files timed against one another, and one against itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.core.errors import TargetError, UserError

if TYPE_CHECKING:
    from autocompress.loading import Place
    from autocompress.measure.runtimes.tvm_tuning import Tuning


def measure(
    files: Sequence[str | Path],
    *,
    target: str = "local",
    device: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
    tune_trials: int | None = None,
    tune_budget_seconds: float | None = None,
    cache: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time model files against the first one, interleaved, each in a fresh process.

    Args:
        files: the first is the reference.
        target: ``local``, or the profile of the attached device.
        device: URL of an attached device; None for this machine.
        runtime: one of the target's; None for its default.
        threads: of one inference; None for the profile's.
        affinity: processor cores to measure on; None for all.
        tune_trials: schedules to time for each kernel that has none, with runtime ``tvm``; None for the usual number.
        tune_budget_seconds: for all of them; None for no limit.
        cache: whether a figure of the same files on the same machine, runtime and policy may be taken from the user's
            cache; ``details["cached"]`` then tells when it was measured.
        on_message: told what is wrong with the cache.

    Returns:
        One record a file: ``path``, ``median_ms`` with its ``interval``, ``samples``, the ``ratio`` to the first file
        with its ``ratio_interval``, ``provenance``, ``runtime``, ``fingerprint`` and more; see
        :class:`autocompress.measure.fresh_process.FileTiming`.

    Raises:
        UserError: a file that cannot be loaded or run, or a target that is not attached.
    """
    from autocompress.loading import tuning_of
    from autocompress.measure.fresh_process import measure_files
    from autocompress.measure.store import MeasurementStore

    store = MeasurementStore(on_message=on_message) if cache else None
    # Two files that are compared deserve schedules of their own: none takes over its neighbour's.
    tuning = tuning_of(runtime, tune_trials, tune_budget_seconds, transfer=False)
    with _measured_place(target, device, runtime, threads, affinity, tuning) as (place, count):
        fresh = (lambda: place.fresh_timer(threads=count)) if place.has_fresh_timers else None
        timings = measure_files(
            list(files), threads=count, affinity=affinity, runtime=place.spec.name, fresh=fresh, store=store
        )
    return [timing.to_dict() for timing in timings]


def measure_itself(
    file: str | Path,
    *,
    runs: int = 10,
    seconds: float | None = None,
    target: str = "local",
    device: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
    tune_trials: int | None = None,
    tune_budget_seconds: float | None = None,
) -> dict[str, Any]:
    """Time a model file against itself, again and again: how often the timer finds a difference where there is none.

    Args:
        file: of the model.
        runs: comparisons.
        seconds: longest time of each; None for the usual one.
        target: as for :func:`measure`, and so are the rest.
        device: see there.
        runtime: see there.
        threads: see there.
        affinity: see there.
        tune_trials: see there.
        tune_budget_seconds: see there.

    Returns:
        See :func:`autocompress.measure.self_comparison.compare_with_itself`.

    Raises:
        UserError: a file that cannot be loaded or run, or a target that is not attached.
    """
    from dataclasses import replace

    from autocompress.core.measurement import CAREFUL
    from autocompress.loading import tuning_of
    from autocompress.measure.self_comparison import compare_with_itself

    if seconds is not None and not seconds > 0:
        raise UserError(f"--seconds must be more than 0, but got {seconds}.")
    policy = CAREFUL if seconds is None else replace(CAREFUL, max_seconds=seconds, patience=1.0)
    tuning = tuning_of(runtime, tune_trials, tune_budget_seconds, transfer=False)
    with _measured_place(target, device, runtime, threads, affinity, tuning) as (place, count):
        fresh = (lambda: place.fresh_timer(threads=count)) if place.has_fresh_timers else None
        return compare_with_itself(file, runs=runs, threads=count, policy=policy, affinity=affinity, fresh=fresh)


@contextlib.contextmanager
def _measured_place(
    target: str,
    device: str | None,
    runtime: str | None,
    threads: int | None,
    affinity: Sequence[int] | None,
    tuning: Tuning | None,
) -> Iterator[tuple[Place, int]]:
    """Where models can be timed, and with how many threads."""
    from autocompress.loading import load_place
    from autocompress.measure.affinity import check_threads

    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, but got {threads}.")
    with contextlib.closing(load_place(target, device, runtime, affinity=affinity, tuning=tuning)) as place:
        if not place.measured:
            raise TargetError(
                f"No {target} is attached, so there is nothing to measure on: `predict` estimates a plan for it, "
                "--target local measures on this machine."
            )
        count = threads or place.spec.threads
        check_threads(count, affinity)
        yield place, count
