"""What options do to a figure, learned from trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autocompress.core.space import Choice, SearchSpace
from autocompress.search.option_effects import Effects, Prior, Terms, stacked

SPACE = SearchSpace(
    choices=(
        Choice(name="precision:a", kind="precision", subject="a", options=("fp32", "int8")),
        Choice(name="ratio:a", kind="ratio", subject="a", options=(0.0, 0.25, 0.5), ordered=True),
        Choice(name="ratio:b", kind="ratio", subject="b", options=(0.0, 0.5), ordered=True),
        Choice(name="skip:block", kind="skip", subject="block", options=(0, 1)),
        Choice(name="importance", kind="importance", subject="importance", options=("l1", "l2")),
    ),
    inside={"block": ("b",)},
)
REFERENCE = {"precision:a": "int8", "ratio:a": 0.0, "ratio:b": 0.0, "skip:block": 0, "importance": "l1"}
TERMS = Terms(SPACE, REFERENCE)


def _terms(**changes: Any) -> set[tuple[str, Any]]:
    named = {name.replace("_", ":"): option for name, option in changes.items()}
    row = TERMS.row({**REFERENCE, **named})
    return {(term.choice.name, term.option) for term, holds in zip(TERMS.terms, row, strict=True) if holds}


def test_the_reference_has_no_terms() -> None:
    assert _terms() == set()


def test_a_wider_step_is_the_sum_of_the_narrower_ones() -> None:
    assert _terms(ratio_a=0.5) == {("ratio:a", 0.25), ("ratio:a", 0.5)}
    assert _terms(precision_a="fp32") == {("precision:a", "fp32")}


def test_parts_of_a_skipped_block_have_none() -> None:
    assert _terms(ratio_b=0.5) == {("ratio:b", 0.5)}
    assert _terms(ratio_b=0.5, skip_block=1) == {("skip:block", 1)}


def test_only_whole_assignments_with_known_options_count() -> None:
    assert TERMS.covers(REFERENCE)
    assert not TERMS.covers({**REFERENCE, "ratio:a": 0.125})
    assert not TERMS.covers({name: option for name, option in REFERENCE.items() if name != "skip:block"})


TRUTH = np.array([0.3, -0.2, -0.1, -0.25, -0.4])


def _seen(count: int, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    assignments = [
        {choice.name: choice.options[rng.integers(len(choice.options))] for choice in SPACE.choices}
        for _ in range(count)
    ]
    rows = stacked(TERMS, assignments)
    return rows, 2.0 + rows @ TRUTH + noise * rng.standard_normal(count)


def _prior(mean: float = 0.0, deviation: float = 0.3, scale: float = 0.0) -> Prior:
    none = np.zeros(len(TERMS))
    return Prior(mean=none + mean, deviation=none + deviation, scale=scale, base=1.0, at=1.0)


def test_effects_are_found_in_a_few_dozen_trials() -> None:
    rows, figures = _seen(40)
    found = Effects(_prior(), rows, figures, np.full(40, 0.01)).mean()
    assert found == pytest.approx(np.array([2.0, *TRUTH]), abs=0.03)


def test_what_was_never_tried_stays_as_it_was_taken_for() -> None:
    row = np.array([[1.0, 0.0, 0.0, 0.0, 0.0]])
    effects = Effects(_prior(mean=-0.5), row, np.array([1.8]), np.array([0.01]))
    assert effects.mean()[2:] == pytest.approx(-0.5)
    drawn = np.array([effects.draw(np.random.default_rng(seed)) for seed in range(400)])
    assert drawn[:, 2:].std(axis=0) == pytest.approx(0.3, rel=0.15)


def test_draws_are_about_the_mean_and_agree_on_what_is_known() -> None:
    rows, figures = _seen(40)
    effects = Effects(_prior(scale=0.5), rows, figures, np.full(40, 0.01))
    drawn = np.array([effects.draw(np.random.default_rng(seed)) for seed in range(400)])
    assert drawn.mean(axis=0) == pytest.approx(effects.mean(), abs=0.01)
    assert drawn.std(axis=0).max() < 0.02


def test_a_shared_factor_is_learned_from_some_for_all() -> None:
    rows = np.eye(5)[:3]
    figures = 1.0 - 0.2 * np.ones(3)
    wrong = _prior(mean=-0.1, deviation=0.01, scale=1.0)
    known_base = Prior(mean=wrong.mean, deviation=wrong.deviation, scale=1.0, base=1e-6, at=1.0)
    found = Effects(known_base, rows, figures, np.full(3, 0.01)).mean()
    assert found[4:] == pytest.approx(-0.2, abs=0.02)
