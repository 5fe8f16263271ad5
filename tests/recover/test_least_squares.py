"""Ridge regression against numpy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autocompress.recover.least_squares import fit

RNG = np.random.default_rng(0)
ROWS = RNG.normal(1.0, 1.0, (200, 3, 5)).astype(np.float32)
TRUE = RNG.normal(size=(3, 4, 5)).astype(np.float32)
BIAS = RNG.normal(size=(3, 4)).astype(np.float32)


def _outputs(weight: np.ndarray, bias: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.einsum("ngi,goi->ngo", ROWS, weight) + bias)


@pytest.mark.parametrize("intercept", [True, False])
def test_without_a_pull_it_finds_the_map_that_made_the_outputs(intercept: bool) -> None:
    bias = BIAS if intercept else np.zeros_like(BIAS)
    start = torch.zeros(TRUE.shape)
    found, shift = fit(torch.from_numpy(ROWS), _outputs(TRUE, bias), start, intercept=intercept, ridge=0.0)
    np.testing.assert_allclose(found, TRUE, atol=1e-3)
    if intercept:
        assert shift is not None
        np.testing.assert_allclose(shift, BIAS, atol=1e-3)
    else:
        assert shift is None


def test_the_pull_is_that_of_ridge_regression() -> None:
    wanted = torch.from_numpy(RNG.normal(size=(200, 3, 4)).astype(np.float32))
    found, _ = fit(torch.from_numpy(ROWS), wanted, torch.from_numpy(TRUE), intercept=False, ridge=0.1)
    for group in range(3):
        rows = ROWS[:, group].astype(np.float64)
        pull = 0.1 * np.mean(rows**2)
        stacked = np.vstack([rows / np.sqrt(len(rows)), np.sqrt(pull) * np.eye(5)])
        targets = np.vstack([wanted[:, group].numpy() / np.sqrt(len(rows)), np.sqrt(pull) * TRUE[group].T])
        np.testing.assert_allclose(found[group], np.linalg.lstsq(stacked, targets, rcond=None)[0].T, atol=1e-4)


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    rows = torch.from_numpy(ROWS.copy())
    rows[:, :, 2] = 0.0
    found, _ = fit(rows, _outputs(TRUE, BIAS), torch.from_numpy(TRUE), intercept=True, ridge=0.01)
    np.testing.assert_allclose(found[:, :, 2], TRUE[:, :, 2], atol=1e-5)


def test_rows_that_are_not_finite_say_so() -> None:
    rows = torch.from_numpy(ROWS.copy())
    rows[0, 0, 0] = float("nan")
    found, _ = fit(rows, _outputs(TRUE, BIAS), torch.from_numpy(TRUE), intercept=True, ridge=0.01)
    assert not bool(found.isfinite().all())
