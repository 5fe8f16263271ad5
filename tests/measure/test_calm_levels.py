"""What is remembered of a reference's calm level, and when it is forgotten."""

from __future__ import annotations

from typing import Any

from autocompress.core.measurement import TimingPolicy
from autocompress.measure.calm_levels import CALM_MEMORY, STRANGERS, CalmLevels


def timing(ms: float, **details: Any) -> tuple[tuple[float, ...], dict[str, Any]]:
    return (0.9 * ms, ms, 2 * ms), details


def test_the_lowest_of_the_last_calm_levels_counts() -> None:
    levels = CalmLevels()
    assert levels.lowest_ms is None
    for ms in (0.9, 0.7, 0.8):
        levels.note(*timing(ms, calm=True, steady=True))
    levels.note(*timing(0.5, calm=False, steady=False))
    assert levels.lowest_ms == 0.7
    for _ in range(CALM_MEMORY):
        levels.note(*timing(0.9, calm=True, steady=True))
    assert levels.lowest_ms == 0.9


def test_a_level_that_never_comes_back_is_forgotten() -> None:
    levels = CalmLevels()
    levels.note(*timing(0.7, calm=True, steady=True))
    for _ in range(STRANGERS - 1):
        levels.note(*timing(1.0, calm=False, steady=True))
    assert levels.lowest_ms == 0.7
    levels.note(*timing(1.0, calm=False, steady=True))
    assert levels.lowest_ms is None


def test_spells_of_a_neighbour_do_not_make_it_forgotten() -> None:
    levels = CalmLevels()
    levels.note(*timing(0.7, calm=True, steady=True))
    for index in range(4 * STRANGERS):
        levels.note(*timing(1.0, calm=False, steady=index % STRANGERS != 0))
    assert levels.lowest_ms == 0.7


def test_a_policy_learns_the_lower_level() -> None:
    levels, policy = CalmLevels(), TimingPolicy()
    assert levels.known_to(policy) == policy
    levels.note(*timing(0.7, calm=True, steady=True))
    assert levels.known_to(policy).calm_ms == 0.7
    assert levels.known_to(TimingPolicy(calm_ms=0.6)).calm_ms == 0.6
