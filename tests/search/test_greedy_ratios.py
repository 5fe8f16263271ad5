"""Steps that cost the least sensitivity for what they save."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from autocompress.core.space import Choice
from autocompress.search.greedy_ratios import least_sensitive

CHOICES = [Choice(name=n, kind="ratio", subject=n, options=(0.0, 0.25, 0.5), ordered=True) for n in "ab"]
SENSITIVITIES = {"a": {"0.0": 0.0, "0.25": 1.0, "0.5": 2.0}, "b": {"0.0": 0.0, "0.25": 0.1, "0.5": 4.0}}


def _saved(ratios: Mapping[str, float]) -> float:
    return sum(ratios.values()) / 2


def test_the_cheapest_steps_come_first_and_goals_that_cannot_be_reached_are_left_out() -> None:
    found = least_sensitive((0.3, 0.1, 0.9), CHOICES, SENSITIVITIES, _saved)
    # A quarter of b for 0.1, then half of a for 2 in all; half of b would cost 3.9 more.
    assert list(found.items()) == [(0.3, {"a": 0.5, "b": 0.25}), (0.1, {"b": 0.25})]


def test_what_has_no_sensitivity_is_not_taken() -> None:
    assert least_sensitive((0.2,), CHOICES, {"a": SENSITIVITIES["a"]}, _saved) == {0.2: {"a": 0.5}}
    assert least_sensitive((0.2,), CHOICES, {}, _saved) == {}


@pytest.mark.parametrize("together", [True, False])
def test_a_step_that_saves_once_another_is_taken_is_asked_again(together: bool) -> None:
    def saved(ratios: Mapping[str, float]) -> float:
        # Narrower b saves nothing before a is narrower too.
        return ratios["a"] / 4 + (ratios["b"] / 2 if together and ratios["a"] else 0.0)

    found = least_sensitive((0.3,), CHOICES, SENSITIVITIES, saved)
    assert found == ({0.3: {"a": 0.5, "b": 0.5}} if together else {})
