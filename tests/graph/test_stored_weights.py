"""Stored weights as parameters: what they stand for, what nodes read, and how they are stored again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.stored_weights import HalfWeight, IntegerWeight, MaskedWeight, Stored

Write = Callable[..., ModelGraph]
rng = np.random.default_rng(0)
FLOATS = rng.normal(size=(4, 6)).astype(np.float32)
SCALE = rng.uniform(0.01, 0.1, (4, 1)).astype(np.float32)


def codes(kind: Any, low: int, high: int) -> NDArray[Any]:
    return rng.integers(low, high + 1, (4, 6)).astype(kind)


STORED: dict[str, Stored] = {
    "float16": HalfWeight(array=FLOATS.astype(np.float16)),
    "bfloat16": HalfWeight(array=FLOATS.astype(ml_dtypes.bfloat16)),
    "masked": MaskedWeight(np.maximum(FLOATS, 0), FLOATS > 0),
    "int8": IntegerWeight(codes(np.int8, -127, 127), SCALE, np.zeros((), np.int8)),
    "int8 with zero points": IntegerWeight(codes(np.int8, -128, 127), SCALE, codes(np.int8, -9, 9)[:, :1]),
    "uint8 around 128": IntegerWeight(codes(np.uint8, 1, 255), SCALE, np.full((), 128, np.uint8)),
    "int4": IntegerWeight(codes(ml_dtypes.int4, -7, 7), SCALE, np.zeros((), np.int8)),
    "uint4": IntegerWeight(codes(ml_dtypes.uint4, 0, 15), SCALE, codes(np.uint8, 0, 15)[:, :1]),
    "int32": IntegerWeight(codes(np.int32, -(2**20), 2**20), SCALE, np.zeros((), np.int32)),
    "4 bits in bytes": IntegerWeight(
        codes(np.uint8, 0, 255).reshape(4, 1, 6), SCALE.reshape(4, 1, 1), np.full((), 8, np.uint8), 4
    ),
}


@pytest.fixture(params=list(STORED))
def stored(request: pytest.FixtureRequest) -> Stored:
    return STORED[request.param]


def test_an_untrained_weight_is_stored_in_its_very_bits(stored: Stored) -> None:
    array: NDArray[Any] = stored.array  # type: ignore[attr-defined]
    found = stored.write(stored.start())
    assert found.dtype == array.dtype
    assert found.tobytes() == array.tobytes()


def test_what_is_read_after_training_is_what_is_stored(stored: Stored) -> None:
    parameter = stored.start() + torch.from_numpy(rng.normal(0, 0.05, stored.start().shape).astype(np.float32))
    read = stored.read(parameter).float().numpy()
    written = stored.write(parameter)
    again = type(stored)(array=written) if isinstance(stored, HalfWeight) else None
    if again is not None:
        np.testing.assert_array_equal(again.start().numpy(), read)
    elif isinstance(stored, IntegerWeight):
        moved = IntegerWeight(written, stored.scale, stored.zero.astype(np.int32), stored.packed_bits)
        np.testing.assert_array_equal(moved.codes.astype(np.float32), read)
    else:
        np.testing.assert_array_equal(written, read)


def test_gradients_go_straight_through(stored: Stored) -> None:
    parameter = stored.start().requires_grad_()
    read = stored.read(parameter)
    read.sum().backward()
    assert parameter.grad is not None
    reaching = parameter.grad != 0
    # Codes at their ends may be held back; where a mask is, nothing arrives.
    expected = stored.start() != 0 if isinstance(stored, MaskedWeight) else torch.ones_like(reaching)
    assert (reaching == expected).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("int8", -127, 127),
        ("int8 with zero points", -128, 127),
        ("uint8 around 128", 1, 255),
        ("int4", -7, 7),
        ("uint4", 0, 15),
        ("4 bits in bytes", 0, 15),
    ],
)
def test_codes_end_where_their_type_does(name: str, low: int, high: int) -> None:
    weight = STORED[name]
    assert isinstance(weight, IntegerWeight)
    far = torch.full_like(weight.start(), 1e4)
    assert float(weight.read(far).max()) == high
    assert float(weight.read(-far).min()) == low
    array = weight.write(far)
    assert IntegerWeight(array, weight.scale, weight.zero, weight.packed_bits).codes.max() == high


def test_readers_that_place_codes_on_different_grids_leave_them_integers(write: Write) -> None:
    node = helper.make_node
    graph = write(
        [
            node("DequantizeLinear", ["w", "s1"], ["a"]),
            node("DequantizeLinear", ["w", "s2"], ["b"]),
            node("MatMul", ["x", "a"], ["p"]),
            node("MatMul", ["x", "b"], ["q"]),
            node("Add", ["p", "q"], ["y"]),
        ],
        {"w": codes(np.int8, -127, 127).T.copy(), "s1": np.float32(0.1), "s2": np.float32(0.2)},
        {"x": (TensorProto.FLOAT, ("n", 6))},
        {"y": TensorProto.FLOAT},
    )
    assert "w" not in GraphModule(graph).named_initializers()


def test_readers_with_one_grid_share_a_parameter(write: Write) -> None:
    node = helper.make_node
    graph = write(
        [
            node("DequantizeLinear", ["w", "s"], ["a"]),
            node("MatMul", ["x", "a"], ["h"]),
            node("DequantizeLinear", ["w", "s"], ["b"]),
            node("MatMul", ["h", "b"], ["y"]),
        ],
        {"w": rng.integers(-127, 128, (6, 6)).astype(np.int8), "s": np.float32(0.1)},
        {"x": (TensorProto.FLOAT, ("n", 6))},
        {"y": TensorProto.FLOAT},
    )
    assert list(GraphModule(graph).named_initializers()) == ["w"]
