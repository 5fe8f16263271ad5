"""Uniform integers by channel, tensor and block, against loops over the definition."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autocompress.compress.affine import affine_groups, asymmetric_rows, integer_weight
from autocompress.core.plan import LayerPlan

WEIGHT = np.random.default_rng(3).normal(0.02, 0.1, (6, 5, 3, 3)).astype(np.float32)


def blocks_of(weight: Any, axis: int, granularity: str, size: int) -> list[tuple[Any, Any]]:
    """Places and values of each group, as a mask of the weight, from the definition."""
    moved = np.moveaxis(np.arange(weight.size).reshape(weight.shape), axis, 0).reshape(weight.shape[axis], -1)
    if granularity == "tensor":
        groups = [moved.reshape(-1)]
    elif granularity == "channel":
        groups = list(moved)
    else:
        groups = [row[start : start + size] for row in moved for start in range(0, moved.shape[1], size)]
    return [(places, weight.reshape(-1)[places]) for places in groups]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "block"])
def test_eight_bits_are_the_rounding_of_each_group_s_range(granularity: str, symmetric: bool, axis: int) -> None:
    plan = LayerPlan(
        weight_bits=8, granularity=granularity, symmetric=symmetric, block_size=16 if granularity == "block" else 32
    )
    found = affine_groups(WEIGHT, axis, plan).dequantized()
    expected = np.empty(WEIGHT.size)
    for places, values in blocks_of(WEIGHT, axis, granularity, 16):
        low, high = min(0.0, values.min()), max(0.0, values.max())
        if symmetric:
            scale = np.abs(values).max() / 127
            expected[places] = np.rint(values / scale) * scale
        else:
            scale = (high - low) / 255
            zero = np.clip(np.rint(-128 - low / scale), -128, 127)
            expected[places] = (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale
    # A value on a rounding boundary may fall to either side.
    close = np.isclose(found.reshape(-1), expected, rtol=0, atol=1e-6)
    assert close.mean() > 0.98
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=0, atol=0.012)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_zero_points_beat_symmetry_where_weights_lean_to_one_side(bits: int) -> None:
    weight = np.abs(WEIGHT)
    errors = [
        np.square(affine_groups(weight, 0, LayerPlan(weight_bits=bits, symmetric=s)).dequantized() - weight).sum()
        for s in (False, True)
    ]
    assert errors[0] < 0.55 * errors[1]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_finer_groups_err_less(bits: int, symmetric: bool) -> None:
    spread = WEIGHT * np.exp(np.random.default_rng(0).normal(size=(6, 5, 1, 1))).astype(np.float32)
    errors = [
        float(np.square(affine_groups(spread, 0, plan).dequantized() - spread).sum())
        for plan in (
            LayerPlan(weight_bits=bits, symmetric=symmetric, granularity="tensor"),
            LayerPlan(weight_bits=bits, symmetric=symmetric),
            LayerPlan(weight_bits=bits, symmetric=symmetric, granularity="block", block_size=16),
        )
    ]
    assert errors[0] > errors[1] > errors[2]


@given(
    arrays.arrays(np.float32, (3, 7), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([2, 3, 4, 6, 7, 8]),
)
@settings(max_examples=60, deadline=None)
def test_asymmetric_codes_stay_in_range_and_keep_zero(rows: Any, bits: int) -> None:
    codes, scale, zero = asymmetric_rows(rows, bits)
    for numbers in (codes, zero):
        assert numbers.min() >= -(2 ** (bits - 1)) and numbers.max() < 2 ** (bits - 1)
    assert (codes == zero[:, None])[rows == 0].all()
    assert np.isfinite(scale).all() and (scale > 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_reduced_range_is_seven_bits(symmetric: bool) -> None:
    plan = LayerPlan(weight_bits=8, activation_bits=8, granularity="tensor", symmetric=symmetric)
    found = integer_weight(WEIGHT, 0, plan, reduce_range=True)
    assert found.values.min() >= -64 and found.values.max() <= 63
    assert np.abs(found.dequantized() - WEIGHT).max() < 0.51 * found.scale.max()


def test_a_tensor_s_channels_share_scale_and_zero_point() -> None:
    plan = LayerPlan(weight_bits=4, activation_bits=8, granularity="tensor", symmetric=False)
    found = integer_weight(WEIGHT, 1, plan)
    assert found.per_tensor and found.zero is not None
    assert found.scale.shape == found.zero.shape == (5,)
    assert len(np.unique(found.scale)) == len(np.unique(found.zero)) == 1
    np.testing.assert_array_equal(found.dequantized(), affine_groups(WEIGHT, 1, plan).dequantized())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_quantizes_to_nothing(shape: tuple[int, int]) -> None:
    for plan in (LayerPlan(weight_bits=4, granularity="block"), LayerPlan(weight_bits=4, symmetric=False)):
        assert affine_groups(np.zeros(shape, np.float32), 0, plan).dequantized().shape == shape
