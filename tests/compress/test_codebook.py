"""Codebooks, logarithmic steps and powers of two, against brute force."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compress.codebook import kmeans, nearest_level, signed_levels, table_groups
from autocompress.core.plan import LayerPlan

WEIGHT = np.random.default_rng(5).normal(0, 0.1, (8, 24)).astype(np.float32)


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_each_value_gets_the_nearest_level(values: list[float], levels: int) -> None:
    table = np.sort(np.random.default_rng(levels).normal(size=levels)).astype(np.float32)
    array = np.array(values, np.float32)
    found = np.abs(table[nearest_level(array, table)].astype(np.float64) - array)
    expected = np.abs(table[None, :].astype(np.float64) - array[:, None]).min(1)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def lloyd(values: Any, weights: Any, levels: int) -> Any:
    """The same iterations from the definition: every value to its nearest center, every center to its mean."""
    centers = np.linspace(values.min(), values.max(), levels)
    for _ in range(30):
        held = np.abs(values[:, None] - centers[None]).argmin(1)
        centers = np.sort(
            [
                np.average(values[held == k], weights=weights[held == k]) if (held == k).any() else centers[k]
                for k in range(levels)
            ]
        )
    return centers


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_kmeans_is_lloyd_s_on_weighted_values(levels: int) -> None:
    rng = np.random.default_rng(levels)
    values, weights = rng.normal(size=300).astype(np.float32), rng.uniform(0.1, 2, 300).astype(np.float32)
    np.testing.assert_allclose(kmeans(values, weights, levels), lloyd(values, weights, levels), atol=1e-5)


def test_few_distinct_values_are_kept_exactly() -> None:
    values = np.array([0.5, -1.25, 3.0, 0.5], np.float32)
    table = kmeans(values, np.ones(4, np.float32), 4)
    np.testing.assert_array_equal(table[nearest_level(values, table)], values)


def test_pruned_weights_stay_zero_in_a_codebook() -> None:
    sparse = np.where(np.random.default_rng(0).random(WEIGHT.shape) < 0.5, 0, WEIGHT).astype(np.float32)
    for granularity in ("tensor", "channel"):
        found = table_groups(sparse, 0, LayerPlan(weight_bits=3, format="codebook", granularity=granularity))
        assert (found.dequantized()[sparse == 0] == 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_powers_of_two_are_powers_of_two(bits: int) -> None:
    found = table_groups(WEIGHT, 0, LayerPlan(weight_bits=bits, format="power_of_two")).dequantized()
    mantissas, _ = np.frexp(found[found != 0])
    assert set(np.abs(mantissas)) == {0.5}
    for row in found:
        assert len(np.unique(np.abs(row[row != 0]))) <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_logarithmic_levels_have_one_ratio(bits: int) -> None:
    plan = LayerPlan(weight_bits=bits, format="log")
    found = table_groups(WEIGHT, 0, plan)
    assert found.table is not None and len(found.table) == 2**bits - 1
    positive = found.table[found.table > 0].astype(np.float64)
    if bits > 2:
        np.testing.assert_allclose(positive[1:] / positive[:-1], 2 ** (0.125 if bits == 8 else 0.5), rtol=1e-6)
    np.testing.assert_array_equal(found.table, -found.table[::-1])


def test_levels_are_the_paper_s() -> None:
    np.testing.assert_array_equal(signed_levels(1.0, 3), np.array([-1, -0.5, -0.25, 0, 0.25, 0.5, 1], np.float32))


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("format", ["codebook", "log", "power_of_two"])
def test_every_number_is_a_scaled_level_and_more_bits_err_less(format: str, granularity: str) -> None:
    errors = []
    for bits in (2, 3, 4, 6):
        found = table_groups(WEIGHT, 1, LayerPlan(weight_bits=bits, format=format, granularity=granularity))
        errors.append(float(np.square(found.dequantized() - WEIGHT).sum()))
        assert found.dequantized().shape == WEIGHT.shape
    assert errors == sorted(errors, reverse=True)


def test_a_codebook_errs_less_than_even_steps() -> None:
    from autocompress.compress.affine import affine_groups

    heavy = np.random.default_rng(1).standard_t(3, (16, 64)).astype(np.float32)
    for bits in (3, 4):
        even = affine_groups(heavy, 0, LayerPlan(weight_bits=bits, granularity="tensor")).dequantized()
        book = table_groups(heavy, 0, LayerPlan(weight_bits=bits, format="codebook", granularity="tensor"))
        assert np.square(book.dequantized() - heavy).sum() < np.square(even - heavy).sum()
