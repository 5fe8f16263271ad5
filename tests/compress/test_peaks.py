"""8-bit integers of parts of a weight: gathered from the whole weight's, and what rounding anew gives."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from autocompress.compress.derived import DerivedTensor
from autocompress.compress.peaks import (
    columns_part_to_peak,
    columns_to_peak,
    part_to_peak,
    rows_to_peak,
    whole_codes,
)
from autocompress.compress.weights import WeightCache, quantize_weight

RNG = np.random.default_rng(0)
TOPS = st.sampled_from([63, 127])
SOURCES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-4, 4, width=32)
)


def part(source: NDArray[Any], axes: dict[int, NDArray[np.intp]], scale: NDArray[Any] | None = None) -> DerivedTensor:
    return DerivedTensor(source, axes, dtype=ir.DataType.FLOAT, name="w", scale=scale)


@given(SOURCES, TOPS, st.data())
def test_a_part_has_the_integers_of_its_own_array(source: NDArray[np.float32], top: int, data: st.DataObject) -> None:
    axes = {}
    for axis in data.draw(st.sets(st.integers(0, source.ndim - 1), min_size=1)):
        kept = data.draw(st.sets(st.integers(0, source.shape[axis] - 1), min_size=1))
        axes[axis] = np.array(sorted(kept), np.intp)
    weight = part(source, axes)
    values, scale = part_to_peak(weight, whole_codes(source, top), top)
    expected, steps = rows_to_peak(weight.numpy(), top)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(scale, steps)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-4, 4, width=32)),
    TOPS,
    st.data(),
)
def test_a_part_with_channels_in_columns_too(source: NDArray[np.float32], top: int, data: st.DataObject) -> None:
    axes = {}
    for axis in data.draw(st.sets(st.integers(0, 1), min_size=1)):
        kept = data.draw(st.sets(st.integers(0, source.shape[axis] - 1), min_size=1))
        axes[axis] = np.array(sorted(kept), np.intp)
    weight, whole = part(source, axes), whole_codes(source, top, axis=1)
    before = whole.values.copy()
    values, scale = columns_part_to_peak(weight, whole, top)
    expected, steps = columns_to_peak(weight.numpy(), top)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(scale, steps)
    np.testing.assert_array_equal(whole.values, before)


def test_columns_past_a_block_are_the_rows_of_its_transpose() -> None:
    source = RNG.normal(size=(300, 500)).astype(np.float32)
    rows, columns = np.sort(RNG.permutation(300)[:200]), np.sort(RNG.permutation(500)[:300])
    values, scale = columns_part_to_peak(part(source, {0: rows, 1: columns}), whole_codes(source, 127, axis=1), 127)
    expected, steps = rows_to_peak(np.ascontiguousarray(source[rows][:, columns].T), 127)
    np.testing.assert_array_equal(values, expected.T)
    np.testing.assert_array_equal(scale, steps)


@pytest.mark.parametrize("top", [63, 127])
def test_factors_change_steps_and_signs(top: int) -> None:
    source = RNG.normal(size=(12, 10, 3, 3)).astype(np.float32)
    factors = np.array([0.5, -3.0, 0.0, 1e-3], np.float32)
    weight = part(source, {0: np.array([1, 4, 6, 9]), 1: np.array([0, 2, 7])}, factors)
    values, scale = part_to_peak(weight, whole_codes(source, top), top)
    real = values * scale[:, None]
    product = weight.numpy().reshape(4, -1)
    assert np.all(np.abs(real - product) <= scale[:, None] * 0.5001)
    assert np.abs(values).max(1).tolist() == [top, top, 0, top]
    np.testing.assert_allclose(scale[[0, 1, 3]], np.abs(product).max(1)[[0, 1, 3]] / top, rtol=1e-6)
    assert scale[2] == scale.max(), "a channel of zeros takes the largest step of the others"


def test_a_channel_too_small_for_a_step_of_its_own_counts_with_its_factor() -> None:
    source = np.array([[1e-37, -5e-38, 0], [1, 2, 3]], np.float32)
    weight = part(source, {1: np.array([0, 1])}, np.array([1e20, 1], np.float32))
    values, scale = part_to_peak(weight, whole_codes(source, 127), 127)
    expected, steps = rows_to_peak(weight.numpy(), 127)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(scale, steps, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_no_number_stays_in_the_entries_it_was_in(axis: int) -> None:
    source = np.ones((4, 4), np.float32)
    source[2, 2] = np.nan
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        whole = whole_codes(source, 127, axis)
        gathers = columns_part_to_peak if axis == 1 else part_to_peak
        for kept, is_nan in (([0, 1, 3], False), ([0, 2], True)):
            _, scale = gathers(part(source, {1 - axis: np.array(kept)}), whole, 127)
            assert np.isnan(scale[2]) == is_nan
            assert not np.isnan(scale[[0, 1, 3]]).any()


def test_the_whole_weights_integers_stay_as_they_are() -> None:
    source = RNG.normal(size=(6, 5)).astype(np.float32)
    whole = whole_codes(source, 127)
    before, steps = whole.values.copy(), whole.steps.copy()
    for axes in ({0: np.arange(6)}, {1: np.array([0, 3])}, {0: np.array([2]), 1: np.array([1])}):
        part_to_peak(part(source, axes, np.full(len(axes.get(0, source)), -2, np.float32)), whole, 127)
    np.testing.assert_array_equal(whole.values, before)
    np.testing.assert_array_equal(whole.steps, steps)


def test_the_cache_rounds_a_source_once_and_knows_a_part_again() -> None:
    source = RNG.normal(size=(8, 6, 3, 3)).astype(np.float32)
    cache = WeightCache()

    def weight(*kept: int) -> DerivedTensor:
        return part(source, {1: np.array(kept)}, np.linspace(0.5, 1, 8).astype(np.float32))

    first = cache.get(weight(0, 2, 3), 8, 0)
    assert cache.get(weight(0, 2, 3), 8, 0) is first
    assert (cache.hits, cache.misses) == (1, 2), "the part and its source"
    cache.get(weight(1, 5), 8, 0)
    assert (cache.hits, cache.misses) == (2, 3), "another part, the same source"
    plain = quantize_weight(weight(0, 2, 3), 8, 0)
    np.testing.assert_array_equal(first.values, plain.values)
    np.testing.assert_allclose(first.scale, plain.scale, rtol=1e-6)


def test_parts_and_their_source_are_remembered_by_the_bytes_of_their_integers() -> None:
    """Counted as floats the source would be forgotten, and rounded anew, with every part of it."""
    source = RNG.normal(size=(8, 64)).astype(np.float32)
    cache = WeightCache(capacity_bytes=source.size + 2 * 8 * 32)
    for start in range(4):
        cache.get(part(source, {1: np.arange(start, start + 32)}), 8, 0)
    assert (cache.hits, cache.misses) == (3, 5), "four parts, and their source once"


def test_a_part_that_was_computed_counts_with_its_floats() -> None:
    """Few bits read the whole part, which then stays in memory as long as it is remembered."""
    source = RNG.normal(size=(8, 64)).astype(np.float32)
    cache = WeightCache(capacity_bytes=2 * 4 * 8 * 32 - 1)
    for start in (0, 1, 0):
        cache.get(part(source, {1: np.arange(start, start + 32)}), 4, 0)
    assert (cache.hits, cache.misses) == (0, 3)


def test_few_bits_are_searched_for_in_the_part_itself() -> None:
    source = RNG.normal(size=(8, 6)).astype(np.float32)
    weight = part(source, {1: np.array([0, 2, 3])})
    found, plain = WeightCache().get(weight, 4, 0), quantize_weight(weight.numpy(), 4, 0)
    np.testing.assert_array_equal(found.values, plain.values)
    np.testing.assert_array_equal(found.scale, plain.scale)
