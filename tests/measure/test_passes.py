"""Which comparisons are made again: on a made-up machine whose every level is known."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from autocompress.core.errors import Interrupted
from autocompress.core.measurement import Interval, TimingPolicy
from autocompress.measure.calm_levels import STRANGERS, CalmLevels
from autocompress.measure.file_timing import FileTiming
from autocompress.measure.passes import in_passes

POLICY = TimingPolicy()


class Machine:
    """Runs the reference at one level a comparison; ``calm`` is what each comparison tells of itself."""

    def __init__(self, levels: Sequence[float], *, calm: Sequence[bool] | None = None, stop_at: int = 99) -> None:
        self.places: list[int] = []
        self.policies: list[TimingPolicy] = []
        self._levels, self._calm, self._stop_at = levels, calm, stop_at

    def __call__(self, place: int, policy: TimingPolicy, is_first: bool) -> FileTiming:
        number = len(self.places)
        if number == self._stop_at:
            raise Interrupted
        self.places.append(place)
        self.policies.append(policy)
        level = self._levels[number]
        calm = policy.calm_ms is None or level <= 1.05 * policy.calm_ms
        if self._calm is not None:
            calm = self._calm[number]
        return timing(level, calm=calm, steady=True)


def timing(level: float, **details: Any) -> FileTiming:
    interval = Interval(low=0.5, high=0.5)
    return FileTiming(
        path="a.onnx",
        median_ms=0.5 * level,
        interval=interval,
        samples=(0.5 * level,),
        reference_samples=(level,),
        kept=(True,),
        ratio=0.5,
        ratio_interval=interval,
        size_bytes=1,
        runtime="made up",
        fingerprint="made up",
        when="2026-01-01T00:00:00+00:00",
        details={"calm_level_ms": level, **details},
    )


def timed(machine: Machine, count: int, **options: Any) -> list[FileTiming]:
    return in_passes(count, machine, POLICY, **{"levels": CalmLevels(), "passes": 4, **options})


def test_what_was_disturbed_is_timed_again_after_the_others() -> None:
    machine = Machine([1.3, 1.0, 1.3, 1.02])
    found = timed(machine, 2)
    assert machine.places == [0, 1, 0, 0]
    assert [policy.calm_ms for policy in machine.policies] == [None, 1.3, 1.0, 1.0]
    assert [f.details["calm_level_ms"] for f in found] == [1.02, 1.0]
    assert all(f.details["calm"] for f in found)


def test_what_stays_disturbed_is_said_to_be_and_the_least_stands() -> None:
    machine = Machine([1.3, 1.0, 1.1, 1.2])
    first, second = timed(machine, 2, passes=3)
    assert (first.details["calm"], first.details["calm_level_ms"]) == (False, 1.1)
    assert second.details["calm"]


def test_repeats_keep_to_the_time() -> None:
    machine = Machine([1.3, 1.0])
    found = timed(machine, 2, seconds=0.0)
    assert machine.places == [0, 1]
    assert [f.details["calm"] for f in found] == [False, True]


def test_stopping_while_they_are_timed_again_loses_nothing() -> None:
    machine = Machine([1.3, 1.0, 1.2], stop_at=3)
    first, _ = timed(machine, 2)
    assert first.details["calm_level_ms"] == 1.2
    with pytest.raises(Interrupted):
        timed(Machine([1.0, 1.0], stop_at=1), 2)


def test_a_machine_that_is_slower_now_is_not_called_busy_for_ever() -> None:
    levels = CalmLevels()
    levels.note((1.0,), {"calm": True})
    count = STRANGERS + 1
    machine = Machine([1.1] * 2 * count)
    found = timed(machine, count, levels=levels)
    assert machine.places == [*range(count), *range(STRANGERS)]
    assert all(f.details["calm"] for f in found)
    # A few in a row may be a neighbour's.
    levels = CalmLevels()
    levels.note((1.0,), {"calm": True})
    assert not any(f.details["calm"] for f in timed(Machine([1.1] * 9), 3, levels=levels, passes=2))


def test_levels_of_several_devices_say_nothing_about_each_other() -> None:
    both = threading.Barrier(2, timeout=20)
    machine = Machine([2.0, 1.0, 1.5], calm=[True, False, False])

    def measure(place: int, policy: TimingPolicy, is_first: bool) -> FileTiming:
        if is_first:
            both.wait()
        return machine(place, policy, is_first)

    found = in_passes(2, measure, POLICY, levels=None, passes=2, lanes=2)
    assert len(machine.places) == 3
    assert sorted(f.details["calm"] for f in found) == [False, True]
    assert machine.policies == [POLICY] * 3


def test_what_was_kept_from_before_is_believed() -> None:
    levels = CalmLevels()
    kept = timing(2.0, calm=True, cached="yesterday")
    found = in_passes(2, lambda place, *_: kept if place else timing(1.0, calm=True), POLICY, levels=levels, passes=2)
    assert all(f.details["calm"] for f in found)
    assert levels.lowest_ms == 1.0 and len(levels) == 1


def test_no_files_take_no_time() -> None:
    assert timed(Machine([]), 0) == []
