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
HELD_OUT = torch.arange(200) >= 150


def _outputs(weight: np.ndarray, bias: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.einsum("ngi,goi->ngo", ROWS, weight) + bias)


@pytest.mark.parametrize("intercept", [True, False])
def test_without_a_pull_it_finds_the_map_that_made_the_outputs(intercept: bool) -> None:
    bias = BIAS if intercept else np.zeros_like(BIAS)
    start = torch.zeros(TRUE.shape)
    found, shift = fit(
        torch.from_numpy(ROWS), _outputs(TRUE, bias), start, HELD_OUT, intercept=intercept, ridges=(0.0,)
    )
    np.testing.assert_allclose(found, TRUE, atol=1e-3)
    if intercept:
        assert shift is not None
        np.testing.assert_allclose(shift, BIAS, atol=1e-3)
    else:
        assert shift is None


def test_the_pull_is_that_of_ridge_regression() -> None:
    wanted = torch.from_numpy(RNG.normal(size=(200, 3, 4)).astype(np.float32))
    found, _ = fit(torch.from_numpy(ROWS), wanted, torch.from_numpy(TRUE), HELD_OUT, intercept=False, ridges=(0.1,))
    for group in range(3):
        rows = ROWS[:, group].astype(np.float64)
        pull = 0.1 * np.mean(rows**2)
        stacked = np.vstack([rows / np.sqrt(len(rows)), np.sqrt(pull) * np.eye(5)])
        targets = np.vstack([wanted[:, group].numpy() / np.sqrt(len(rows)), np.sqrt(pull) * TRUE[group].T])
        np.testing.assert_allclose(found[group], np.linalg.lstsq(stacked, targets, rcond=None)[0].T, atol=1e-4)


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    rows = torch.from_numpy(ROWS.copy())
    rows[:, :, 2] = 0.0
    found, _ = fit(rows, _outputs(TRUE, BIAS), torch.from_numpy(TRUE), HELD_OUT, intercept=True)
    np.testing.assert_allclose(found[:, :, 2], TRUE[:, :, 2], atol=1e-5)


def test_rows_that_are_not_finite_say_so() -> None:
    rows = torch.from_numpy(ROWS.copy())
    rows[0, 0, 0] = float("nan")
    found, _ = fit(rows, _outputs(TRUE, BIAS), torch.from_numpy(TRUE), HELD_OUT, intercept=True)
    assert not bool(found.isfinite().all())


def test_rows_too_few_to_trust_leave_the_weights_nearly_as_they_were() -> None:
    """Noise about the true map, fewer rows than inputs: the strongest pull serves the held-out rows best."""
    rows = torch.from_numpy(RNG.normal(size=(12, 1, 40)).astype(np.float32))
    weight = torch.from_numpy(RNG.normal(size=(1, 2, 40)).astype(np.float32))
    noise = torch.from_numpy(RNG.normal(size=(12, 1, 2)).astype(np.float32))
    wanted = torch.einsum("ngi,goi->ngo", rows, weight) + 3.0 * noise
    held_out = torch.arange(12) >= 8
    weak, _ = fit(rows, wanted, weight, held_out, intercept=False, ridges=(0.003,))
    chosen, _ = fit(rows, wanted, weight, held_out, intercept=False)
    assert (chosen - weight).norm() < 0.5 * (weak - weight).norm()
