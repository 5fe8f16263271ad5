"""Fits to published latencies."""

import numpy as np
import pytest

from autocompress.cost.calibration import START, Samples, fit_runtime, fit_target, held_out_fits, score
from autocompress.cost.workload import FEATURES

RNG = np.random.default_rng(0)
AMOUNTS = RNG.uniform(0.1, 1.0, (40, len(FEATURES)))
TRUE = np.array(START) * 3.0


def samples(amounts: np.ndarray = AMOUNTS, noise: float = 0.0) -> Samples:
    factors = np.exp(np.random.default_rng(1).normal(0, noise, len(amounts)))
    return Samples(
        amounts=amounts,
        latencies=amounts @ TRUE * factors,
        families=tuple(f"net{index % 8}" for index in range(len(amounts))),
    )


def test_exact_rows_are_fitted_exactly() -> None:
    found = fit_target(samples(), fit_runtime([]))
    assert AMOUNTS @ found == pytest.approx(samples().latencies, rel=1e-3)


def test_one_odd_row_has_little_pull() -> None:
    rows = samples(noise=0.02)
    rows.latencies[0] *= 10
    found = fit_target(rows, fit_runtime([]))
    assert np.median(np.abs(AMOUNTS @ found / (AMOUNTS @ TRUE) - 1)) < 0.03


def test_coefficients_are_positive() -> None:
    assert (fit_target(samples(noise=0.3), fit_runtime([samples(noise=0.3)])) > 0).all()


def test_a_runtime_is_fitted_up_to_a_factor_a_device() -> None:
    fast, slow = samples(), samples()
    slow = Samples(amounts=slow.amounts, latencies=slow.latencies * 7, families=slow.families)
    theta = fit_runtime([fast, slow])
    for group in (fast, slow):
        ratio = np.log(group.amounts @ np.exp(theta) / group.latencies)
        assert ratio.std() < 0.01


def test_what_is_held_out_does_not_move_its_own_fit() -> None:
    rows, spoiled = samples(), samples()
    spoiled.latencies[np.array([name == "net3" for name in spoiled.families])] *= 5
    key = ("t", "r", 1, "fp32")
    prior = fit_runtime([])
    clean, dirty = (held_out_fits({key: group}, key, lambda k, f: prior)["net3"] for group in (rows, spoiled))
    assert clean == pytest.approx(dirty)


def test_a_score_counts_what_it_says() -> None:
    found = score(np.array([1.1, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))
    assert (found.n, found.spearman) == (3, pytest.approx(1.0))
    assert found.median_error == pytest.approx(0.1)
    assert found.worst_error == pytest.approx(0.25)


def test_two_rows_have_no_rank_correlation() -> None:
    assert score(np.array([1.0, 2.0]), np.array([1.0, 2.0])).spearman is None
