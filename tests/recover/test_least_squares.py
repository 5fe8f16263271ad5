"""Ridge regression against numpy's least squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autocompress.recover.least_squares import RIDGES, NormalEquations, best_change

RNG = np.random.default_rng(0)
ROWS = RNG.normal(1.0, 1.0, (3, 200, 5)).astype(np.float32)
TRUE = RNG.normal(size=(3, 4, 5)).astype(np.float32)
BIAS = RNG.normal(size=(3, 4)).astype(np.float32)
Array = NDArray[Any]


def outputs(rows: Array, weight: Array, bias: Array | float = 0.0) -> Array:
    return np.einsum("gni,goi->gno", rows, weight) + (bias if isinstance(bias, float) else bias[:, None])


def sums(rows: Array, lacking: Array, *, intercept: bool, parts: int = 1) -> NormalEquations:
    (groups, _, inputs), count = rows.shape, lacking.shape[2]
    equations = NormalEquations(groups, inputs, count, intercept=intercept)
    for some, what in zip(np.array_split(rows, parts, 1), np.array_split(lacking, parts, 1), strict=True):
        equations.add(torch.from_numpy(some), torch.from_numpy(what))
    return equations


def change(rows: Array, lacking: Array, used: int, ridges: Sequence[float] = RIDGES) -> Any:
    halves = [(torch.from_numpy(rows[:, part]), torch.from_numpy(lacking[:, part])) for part in np.s_[:used, used:]]
    (groups, _, inputs), count = rows.shape, lacking.shape[2]
    equations = NormalEquations(groups, inputs, count, intercept=False)
    return best_change(equations, halves[:1], halves[1:] if used < rows.shape[1] else [], ridges)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("parts", [1, 7])
def test_without_a_pull_it_finds_the_map_that_made_what_is_lacking(intercept: bool, parts: int) -> None:
    lacking = outputs(ROWS, TRUE, BIAS if intercept else 0.0)
    found, shift = sums(ROWS, lacking, intercept=intercept, parts=parts).change(0.0)
    np.testing.assert_allclose(found, TRUE, atol=1e-3)
    np.testing.assert_allclose(shift, BIAS if intercept else np.zeros_like(BIAS), atol=1e-3)


@pytest.mark.parametrize("inputs", [5, 1100])
def test_the_pull_is_that_of_ridge_regression(inputs: int) -> None:
    """Against the stacked system in double precision; the wider product is computed in eight blocks."""
    rows = RNG.normal(0.5, 1.0, (2, 300, inputs)).astype(np.float32)
    lacking = RNG.normal(size=(2, 300, 4)).astype(np.float32)
    found, _ = sums(rows, lacking, intercept=False, parts=3).change(0.1)
    for group in range(2):
        x = rows[group].astype(np.float64)
        pull = 0.1 * np.mean(x**2)
        stacked = np.vstack([x / np.sqrt(len(x)), np.sqrt(pull) * np.eye(inputs)])
        targets = np.vstack([lacking[group] / np.sqrt(len(x)), np.zeros((inputs, 4))])
        np.testing.assert_allclose(found[group], np.linalg.lstsq(stacked, targets, rcond=None)[0].T, atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_moments_of_outputs_are_those_of_the_rows_wherever_their_mean_is(mean: float) -> None:
    rows = (ROWS + mean).astype(np.float32)
    found = sums(rows, outputs(rows, TRUE), intercept=True, parts=4).output_moments(torch.from_numpy(TRUE))
    wanted = outputs(rows.astype(np.float64), TRUE.astype(np.float64))
    np.testing.assert_allclose(found[0], wanted.mean(1), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found[1], wanted.var(1), rtol=1e-4)


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    rows = ROWS.copy()
    rows[:, :, 2] = 0.0
    found, _ = sums(rows, outputs(ROWS, TRUE, BIAS), intercept=True).change(min(RIDGES))
    np.testing.assert_allclose(found[:, :, 2], 0.0, atol=1e-5)


def test_rows_that_are_not_finite_change_nothing() -> None:
    rows = ROWS.copy()
    rows[0, 0, 0] = float("nan")
    assert not bool(sums(rows, outputs(ROWS, TRUE), intercept=False).change(0.1)[0].isfinite().all())
    assert change(rows, outputs(ROWS, TRUE), used=150) is None


def test_it_is_made_from_all_rows_with_the_pull_that_the_judging_rows_like_best() -> None:
    lacking = outputs(ROWS, TRUE) + 0.1 * RNG.normal(size=(3, 200, 4)).astype(np.float32)
    found, _ = change(ROWS, lacking, used=150)
    wanted, _ = sums(ROWS, lacking, intercept=False).change(min(RIDGES))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_rows_too_few_to_trust_change_little() -> None:
    """Noise about a map, as many rows as inputs: a strong pull serves the judging rows best."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(1, 40, 40)).astype(np.float32)
    lacking = outputs(rows, rng.normal(size=(1, 2, 40))) + 3 * rng.normal(size=(1, 40, 2))
    found, _ = change(rows, lacking.astype(np.float32), used=28)
    weak, _ = sums(rows, lacking.astype(np.float32), intercept=False).change(0.003)
    assert found.norm() < 0.5 * weak.norm()


def test_noise_alone_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    rows, noise = (rng.normal(size=(1, 40, n)).astype(np.float32) for n in (20, 3))
    assert change(rows, noise, used=28) is None


def test_rows_that_nobody_judges_change_nothing() -> None:
    assert change(ROWS, outputs(ROWS, TRUE), used=200) is None


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_what_is_left_is_known_from_the_sums(intercept: bool, mean: float) -> None:
    """As from the rows themselves in double precision, far from the origin too."""
    lacking = (outputs(ROWS, TRUE, BIAS) + mean * intercept).astype(np.float32)
    first = sums(ROWS[:, :150], lacking[:, :150], intercept=intercept, parts=3)
    judges = first.alike()
    judges.add(torch.from_numpy(ROWS[:, 150:]), torch.from_numpy(lacking[:, 150:]))
    weight, shift = first.change(0.3)
    for found, wanted in (
        (judges.energy(), lacking[:, 150:].astype(np.float64)),
        (
            judges.energy((weight, shift)),
            lacking[:, 150:] - outputs(ROWS[:, 150:].astype(np.float64), weight.numpy(), shift.numpy()),
        ),
    ):
        assert found == pytest.approx(float(np.square(wanted).sum()), rel=1e-4)
    first.join(judges)
    whole = sums(ROWS, lacking, intercept=intercept)
    for mine, its in zip(first.change(0.1), whole.change(0.1), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-4 * max(1.0, mean))
