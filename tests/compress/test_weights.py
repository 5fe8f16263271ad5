"""Integers of weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autocompress.compress.weights import QuantizedWeight, WeightCache, quantize_weight, top_level, with_scale

WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-4, 4, width=32)
)


def real(quantized: QuantizedWeight) -> np.ndarray:
    shape = [1] * quantized.values.ndim
    shape[quantized.axis] = -1
    return np.asarray(quantized.values * quantized.scale.reshape(shape))


@given(WEIGHTS, st.sampled_from([0, 1, -1]))
@settings(max_examples=80, deadline=None)
def test_eight_bits_err_by_half_a_step_at_most(weight: np.ndarray, axis: int) -> None:
    quantized = quantize_weight(weight, 8, axis % weight.ndim)
    shape = [1] * weight.ndim
    shape[quantized.axis] = -1
    assert np.all(np.abs(real(quantized) - weight) <= quantized.scale.reshape(shape) * 0.5001 + 1e-12)


@given(WEIGHTS, st.sampled_from([2, 4, 8]))
@settings(max_examples=80, deadline=None)
def test_integers_are_symmetric_and_in_range(weight: np.ndarray, bits: int) -> None:
    quantized = quantize_weight(weight, bits, 0)
    assert quantized.values.dtype == np.int8
    assert quantized.values.shape == weight.shape
    assert np.abs(quantized.values.astype(int)).max() <= top_level(bits)
    assert np.all(quantized.scale > 0)


@given(WEIGHTS, st.sampled_from([2, 4]))
@settings(max_examples=60, deadline=None)
def test_clipping_is_never_worse_than_covering_the_peak(weight: np.ndarray, bits: int) -> None:
    top = top_level(bits)
    rows = weight.reshape(len(weight), -1)
    step = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-8) / top
    plain = ((np.clip(np.rint(rows / step), -top, top) * step - rows) ** 2).sum()
    assert ((real(quantize_weight(weight, bits, 0)) - weight) ** 2).sum() <= plain * (1 + 1e-4) + 1e-6


@pytest.mark.parametrize(("bits", "share"), [(4, 0.75), (2, 0.55)])
def test_clipping_halves_much_of_the_error_of_normal_weights(bits: int, share: float) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 1024)).astype(np.float32)
    top = top_level(bits)
    step = np.abs(weight).max(1, keepdims=True) / top
    plain = ((np.clip(np.rint(weight / step), -top, top) * step - weight) ** 2).mean()
    assert ((real(quantize_weight(weight, bits, 0)) - weight) ** 2).mean() < share * plain


def test_reduced_range_is_seven_bits() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    assert np.abs(quantize_weight(weight, 8, 0, reduce_range=True).values).max() == 63


def test_a_channel_of_zeros_takes_a_scale_like_its_neighbours() -> None:
    weight = np.array([[0.0, 0.0], [1.27, -0.5]], np.float32)
    quantized = quantize_weight(weight, 8, 0)
    np.testing.assert_allclose(quantized.scale, 0.01, rtol=1e-5)
    assert not quantized.values[0].any()


def test_another_scale_rounds_only_the_channels_it_changes() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    quantized = quantize_weight(weight, 8, 1)
    scale = quantized.scale * np.array([1, 4, 1], np.float32)
    changed = with_scale(weight, quantized, scale)
    np.testing.assert_array_equal(changed.values[:, [0, 2]], quantized.values[:, [0, 2]])
    np.testing.assert_array_equal(changed.values[:, 1], np.rint(weight[:, 1] / scale[1]))


def test_the_cache_quantizes_an_array_once_for_each_way() -> None:
    cache = WeightCache()
    weight = np.ones((2, 2), np.float32)
    first = cache.get(weight, 8, 0)
    assert cache.get(weight, 8, 0) is first
    assert cache.get(weight, 4, 0) is not first
    assert (cache.hits, cache.misses) == (1, 2)


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = WeightCache(capacity_bytes=32)
    weights = [np.full((2, 2), i, np.float32) for i in range(3)]
    for weight in weights:
        cache.get(weight, 8, 0)
    cache.get(weights[0], 8, 0)
    assert (cache.hits, cache.misses) == (0, 4)


def test_columns_are_quantized_as_rows_are() -> None:
    weight = np.random.default_rng(0).standard_normal((70, 1000), np.float32)
    weight[:, 5] = 0
    columns = quantize_weight(weight, 8, 1)
    rows = quantize_weight(np.ascontiguousarray(weight.T), 8, 0)
    np.testing.assert_array_equal(columns.values, rows.values.T)
    np.testing.assert_array_equal(columns.scale, rows.scale)
