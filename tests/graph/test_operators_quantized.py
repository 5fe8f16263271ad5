"""Operators on integers against ONNX Runtime, and the gradients that pass through them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from autocompress.graph.operators_quantized import round_through

Agree = Callable[..., None]

rng = np.random.default_rng(0)
X = rng.normal(0, 3, (2, 3, 4)).astype(np.float32)


def test_halves_are_rounded_to_even() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 1e7 + 1, 0.49999997])
    assert round_through(x).tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0, 1e7 + 1, 0.0]


def test_rounding_lets_gradients_through() -> None:
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    (round_through(x) * torch.tensor([1.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_quantize_linear_for_a_tensor(agree: Agree, kind: type) -> None:
    agree("QuantizeLinear", X, np.float32(0.03), np.array(7, kind))


def test_quantize_linear_without_a_zero_point_is_unsigned(agree: Agree) -> None:
    agree("QuantizeLinear", X, np.float32(0.5))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_quantize_linear_along_an_axis(agree: Agree, axis: int) -> None:
    size = X.shape[axis]
    agree(
        "QuantizeLinear", X, rng.uniform(0.01, 0.1, size).astype(np.float32), np.arange(size, dtype=np.int8), axis=axis
    )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_dequantize_linear_along_an_axis(agree: Agree, axis: int) -> None:
    size = X.shape[axis]
    codes = rng.integers(-128, 128, X.shape).astype(np.int8)
    agree(
        "DequantizeLinear",
        codes,
        rng.uniform(0.01, 0.1, size).astype(np.float32),
        np.arange(size, dtype=np.int8),
        axis=axis,
    )


def test_dequantize_linear_in_blocks(agree: Agree) -> None:
    codes = rng.integers(-128, 128, (4, 6)).astype(np.int8)
    scale, zero = rng.uniform(0.01, 0.1, (4, 3)).astype(np.float32), rng.integers(-5, 5, (4, 3)).astype(np.int8)
    agree("DequantizeLinear", codes, scale, zero, axis=1, block_size=2)


def test_dynamic_quantize_linear(agree: Agree) -> None:
    agree("DynamicQuantizeLinear", X, outputs=3)


def test_matmul_integer(agree: Agree) -> None:
    a, b = rng.integers(0, 255, (3, 5)).astype(np.uint8), rng.integers(-128, 128, (5, 4)).astype(np.int8)
    agree("MatMulInteger", a, b, np.array(3, np.uint8))


def test_conv_integer(agree: Agree) -> None:
    x, w = rng.integers(0, 255, (2, 3, 6, 6)).astype(np.uint8), rng.integers(-9, 9, (4, 3, 3, 3)).astype(np.int8)
    agree("ConvInteger", x, w, np.array(3, np.uint8), pads=[1, 1, 1, 1])


def test_gradients_stop_where_codes_are_clamped(one_node: Callable[..., tuple]) -> None:  # type: ignore[type-arg]
    graph, _, _ = one_node("QuantizeLinear", np.zeros(3, np.float32), np.float32(1.0), np.array(0, np.uint8))
    module = graph.to_torch()
    module._outputs = tuple((slot, None) for slot, _ in module._outputs)
    x = torch.tensor([-3.0, 5.2, 300.0], requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
