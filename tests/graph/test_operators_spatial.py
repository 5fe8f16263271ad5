"""Convolution, pooling, normalization and resizing in torch against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autocompress.core.errors import ModelError
from autocompress.graph.operator_node import OperatorNode
from autocompress.graph.operators_spatial import batch_norm

Agree = Callable[..., None]
OneNode = Callable[..., Any]
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.abs(floats(*shape, seed=seed)) + np.float32(0.3)


X = floats(2, 4, 7, 8)
WINDOWS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 3]},
    {"pads": [1, 2, 1, 2]},
    {"pads": [0, 1, 2, 1], "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "SAME_UPPER", "strides": [3, 1]},
    {"auto_pad": "VALID", "strides": [1, 2]},
]


@pytest.mark.parametrize("window", [*WINDOWS, {"dilations": [2, 1], "pads": [2, 1, 2, 1]}], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_conv(window: dict[str, Any], groups: int, bias: bool, agree: Agree) -> None:
    weights = [floats(8, 4 // groups, 3, 2, seed=1), *([floats(8, seed=2)] if bias else [])]
    agree("Conv", X, *weights, group=groups, **window, **NEAR)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_over_other_numbers_of_axes(rank: int, agree: Agree) -> None:
    pads = [1] * rank + [0] * rank
    agree("Conv", floats(2, 3, *[6] * rank), floats(4, 3, *[2] * rank, seed=1), floats(4), pads=pads, **NEAR)


def test_a_weight_given_at_run_time_needs_a_kernel_shape(agree: Agree, one_node: OneNode) -> None:
    agree("Conv", X, floats(3, 4, 3, 3), fixed=False, kernel_shape=[3, 3], **NEAR)
    with pytest.raises(ModelError, match="neither `kernel_shape` nor a constant weight"):
        one_node("Conv", X, floats(3, 4, 3, 3), fixed=False)[0].to_torch()


def test_a_window_over_four_axes_is_refused(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="only windows over 1 to 3 axes can be run, but this one has 4"):
        one_node("Conv", floats(1, 1, 2, 2, 2, 2), floats(1, 1, 1, 1, 1, 1))[0].to_torch()


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"strides": [2, 3]},
        {"pads": [1, 0, 1, 0]},
        {"pads": [0, 1, 1, 0], "strides": [2, 2]},
        {"strides": [2, 2], "output_padding": [1, 0]},
        {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "output_shape": [14, 16]},
        {"strides": [2, 2], "output_shape": [15, 15]},
        {"strides": [2, 2], "output_shape": [13, 15], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "output_shape": [13, 15], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "auto_pad": "VALID"},
        {"dilations": [2, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv_transpose(window: dict[str, Any], groups: int, agree: Agree) -> None:
    agree("ConvTranspose", X, floats(4, 2, 3, 3, seed=1), floats(2 * groups, seed=2), group=groups, **window, **NEAR)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_transpose_over_other_numbers_of_axes(rank: int, agree: Agree) -> None:
    agree("ConvTranspose", floats(2, 3, *[4] * rank), floats(3, 2, *[2] * rank, seed=1), strides=[2] * rank, **NEAR)


@pytest.mark.parametrize("window", [*WINDOWS, {"pads": [2, 2, 2, 2]}, {"pads": [2, 0, 2, 2]}], ids=str)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_pools(op_type: str, window: dict[str, Any], ceil_mode: int, agree: Agree) -> None:
    agree(op_type, X, kernel_shape=[3, 3], ceil_mode=ceil_mode, **window, **NEAR)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("window", [*WINDOWS, {"pads": [1, 1, 1, 1], "strides": [3, 3]}], ids=str)
def test_an_average_that_counts_its_pads(window: dict[str, Any], ceil_mode: int, agree: Agree) -> None:
    agree("AveragePool", X, kernel_shape=[3, 3], count_include_pad=1, ceil_mode=ceil_mode, **window, **NEAR)


@pytest.mark.parametrize("window", [{"dilations": [2, 2]}, {"dilations": [2, 1], "pads": [1, 1, 1, 0]}], ids=str)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_a_dilated_max_pool(window: dict[str, Any], ceil_mode: int, agree: Agree) -> None:
    agree("MaxPool", X, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=ceil_mode, **window)


def test_a_max_pool_of_negative_values_ignores_its_pads(agree: Agree) -> None:
    agree("MaxPool", -positive(1, 2, 5, 5), kernel_shape=[3, 3], pads=[0, 1, 1, 1])


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("rank", [1, 3])
def test_pools_over_other_numbers_of_axes(op_type: str, rank: int, agree: Agree) -> None:
    pads = [1] * rank + [0] * rank
    agree(op_type, floats(2, 3, *[6] * rank), kernel_shape=[2] * rank, strides=[2] * rank, pads=pads, **NEAR)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)], ids=str)
def test_global_pools(op_type: str, shape: tuple[int, ...], agree: Agree) -> None:
    agree(op_type, floats(*shape), **NEAR)


def test_the_indices_of_a_max_pool_are_refused(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="MaxPool of node 'node': the indices of MaxPool are not supported"):
        one_node("MaxPool", X, kernel_shape=[2, 2], outputs=2)[0].to_torch()


def test_a_dilated_average_is_refused(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="dilations of AveragePool are not supported"):
        one_node("AveragePool", X, kernel_shape=[2, 2], dilations=[2, 2])[0].to_torch()


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 5), (2, 4, 3, 5), (2, 4, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("epsilon", [{}, {"epsilon": 0.1}], ids=str)
def test_batch_normalization(shape: tuple[int, ...], epsilon: dict[str, float], agree: Agree) -> None:
    parameters = [floats(4, seed=1), floats(4, seed=2), floats(4, seed=3), positive(4, seed=4)]
    agree("BatchNormalization", floats(*shape), *parameters, **epsilon, **NEAR)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (5,)), (1, (3, 4, 5)), (2, (4, 5)), (-2, (4, 5)), (0, (2, 3, 4, 5))])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_layer_normalization(axis: int, shape: tuple[int, ...], bias: bool, agree: Agree) -> None:
    parameters = [floats(*shape, seed=1), *([floats(*shape, seed=2)] if bias else [])]
    agree("LayerNormalization", floats(2, 3, 4, 5), *parameters, axis=axis, epsilon=0.01, **NEAR)


@pytest.mark.parametrize("shape", [(1,), (5,), (4, 1)], ids=str)
def test_a_layer_normalization_whose_scale_broadcasts(shape: tuple[int, ...], agree: Agree) -> None:
    agree("LayerNormalization", floats(2, 3, 4, 5), floats(*shape, seed=1), floats(*shape, seed=2), axis=2, **NEAR)


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 4, 3, 5), (1, 4, 1, 1)], ids=str)
def test_instance_normalization(shape: tuple[int, ...], agree: Agree) -> None:
    agree("InstanceNormalization", floats(*shape), floats(4, seed=1), floats(4, seed=2), epsilon=0.01, **NEAR)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_normalization(groups: int, agree: Agree) -> None:
    agree("GroupNormalization", X, floats(4, seed=1), floats(4, seed=2), num_groups=groups, epsilon=0.01, **NEAR)


def test_group_normalization_of_single_entries(agree: Agree) -> None:
    agree("GroupNormalization", floats(1, 4, 1, 1), floats(4, seed=1), floats(4, seed=2), num_groups=4, **NEAR)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(size: int, agree: Agree) -> None:
    agree("LRN", X, size=size, alpha=0.5, beta=0.6, bias=1.5, **NEAR)


def test_a_local_response_over_an_even_number_is_refused(one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="`size` must be odd, but got 2"):
        one_node("LRN", X, size=2)[0].to_torch()


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
SCALES = (
    np.array([1, 1, 2, 1.5], np.float32),
    np.array([1, 1, 0.5, 0.6], np.float32),
    np.array([1, 1, 3, 0.125], np.float32),
)


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_to_the_nearest(scales: NDArray[np.float32], coordinates: str, rounding: str, agree: Agree) -> None:
    agree("Resize", X, None, scales, coordinate_transformation_mode=coordinates, nearest_mode=rounding)


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_resize_linearly(scales: NDArray[np.float32], coordinates: str, agree: Agree) -> None:
    agree("Resize", X, None, scales, coordinate_transformation_mode=coordinates, mode="linear", **NEAR)


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "computed"])
@pytest.mark.parametrize("size", [(2, 4, 14, 16), (2, 4, 3, 5), (2, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_to_a_size(mode: str, coordinates: str, size: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    settings = {"mode": mode, "coordinate_transformation_mode": coordinates}
    agree("Resize", X, None, None, np.array(size), fixed=fixed, **settings, **NEAR)


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1]], ids=str)
def test_resize_of_named_axes(axes: list[int], agree: Agree) -> None:
    agree("Resize", X, None, np.array([2, 3][: len(axes)], np.float32), axes=axes)


def test_upsampling_of_old(agree: Agree) -> None:
    agree("Upsample", X, np.array([1, 1, 2, 2], np.float32), opset=9)


@pytest.mark.parametrize("setting", [{"mode": "cubic"}, {"antialias": 1, "mode": "linear"}], ids=str)
def test_a_resize_that_torch_would_do_otherwise_is_refused(setting: dict[str, Any], one_node: OneNode) -> None:
    with pytest.raises(ModelError, match="Cannot run operator Resize of node 'node'"):
        one_node("Resize", X, None, SCALES[0], **setting)[0].to_torch()


@pytest.mark.parametrize(("shape", "own"), [((1, 4), False), ((1, 4, 1, 1), False), ((2, 4), True), ((1, 4, 2), True)])
def test_one_value_a_channel_is_normalized_by_the_running_statistics_in_training(
    shape: tuple[int, ...], own: bool
) -> None:
    node = OperatorNode(op_type="BatchNormalization", name="n", inputs=("x", "w", "b", "mean", "var"))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mean, var = torch.full((4,), 2.0), torch.full((4,), 9.0)
    found = batch_norm(node)(True, 1.0, x, torch.ones(4), torch.zeros(4), mean, var)
    assert bool((mean == 2).all()) != own
    if not own:
        torch.testing.assert_close(found, (x - 2) / (9 + 1e-5) ** 0.5)
        found.sum().backward()
        assert x.grad is not None and bool(x.grad.isfinite().all())
