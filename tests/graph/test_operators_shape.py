"""Operators that move, cut or describe tensors in torch against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from autocompress.core.errors import ModelError

Agree = Callable[..., None]
FIXED = pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "computed"])


def floats(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)


def sizes(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


X = floats(2, 3, 4, 6)


@pytest.mark.parametrize(
    "to",
    [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.BOOL],
)
def test_cast(to: int, agree: Agree) -> None:
    agree("Cast", np.array([-1.75, -0.5, 0.0, 0.25, 3.9], np.float32), to=to, rtol=1e-3)


def test_a_cast_to_text_is_refused(one_node: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="Cast of node 'node': type STRING is not supported"):
        one_node("Cast", X, to=TensorProto.STRING)[0].to_torch()


@pytest.mark.parametrize("axis", [0, 1, -1, -4])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_concat(axis: int, count: int, agree: Agree) -> None:
    agree("Concat", *[X] * count, axis=axis)


@FIXED
@pytest.mark.parametrize("shape", [(), (2,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("value", [None, np.array([7], np.int64), np.array([2.5], np.float32)], ids=str)
def test_constant_of_shape(shape: tuple[int, ...], value: NDArray[Any] | None, fixed: bool, agree: Agree) -> None:
    rest = {} if value is None else {"value": numpy_helper.from_array(value)}
    agree("ConstantOfShape", sizes(*shape), fixed=fixed, **rest)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_to_space(mode: str, block: int, agree: Agree) -> None:
    agree("DepthToSpace", floats(2, 2 * block**2, 3, 5), blocksize=block, mode=mode)


@pytest.mark.parametrize("block", [1, 2])
def test_space_to_depth(block: int, agree: Agree) -> None:
    agree("SpaceToDepth", X, blocksize=block)


@FIXED
@pytest.mark.parametrize("target", [(3, 4), (2, 3, 4), (1, 1), (4,), (1,)], ids=str)
def test_expand(target: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    agree("Expand", floats(3, 1 if len(target) > 1 or target == (4,) else 4), sizes(*target), fixed=fixed)


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 4, -1, -3])
def test_flatten(axis: int | None, agree: Agree) -> None:
    agree("Flatten", X, **({} if axis is None else {"axis": axis}))


def test_flatten_of_a_vector(agree: Agree) -> None:
    agree("Flatten", floats(5))


@FIXED
@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("indices", [1, -1, [0, -2], [[1, 0, 1], [-1, 0, 0]]], ids=str)
def test_gather(axis: int, indices: Any, fixed: bool, agree: Agree) -> None:
    agree("Gather", X, np.array(indices, np.int64), axis=axis, fixed=fixed)


@pytest.mark.parametrize("index", [0, -1])
def test_gather_of_one_entry_of_a_vector_is_a_scalar(index: int, agree: Agree) -> None:
    agree("Gather", floats(5), np.array(index, np.int64))


def test_gather_by_short_integers(agree: Agree) -> None:
    agree("Gather", X, np.array([1, 0], np.int32), axis=1)


@FIXED
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 0, 3), (1, 0, 0, 0, 0, 2, 0, 0), (0, 0, -1, 1, 0, 0, 2, -2)], ids=str
)
@pytest.mark.parametrize("value", [None, 1.5])
def test_pad_with_a_constant(pads: tuple[int, ...], value: float | None, fixed: bool, agree: Agree) -> None:
    agree("Pad", X, sizes(*pads), *([] if value is None else [np.float32(value)]), fixed=fixed)


@FIXED
@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 0, 3), (0, 0, 0, 2, 0, 0, 0, 1), (0, 0, 2, 0, 0, 0, 1, 0), (0,) * 8], ids=str
)
def test_pad_from_the_values(pads: tuple[int, ...], mode: str, fixed: bool, agree: Agree) -> None:
    agree("Pad", X, sizes(*pads), mode=mode, fixed=fixed)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 4, 5), (2, 3, 4, 4, 5)], ids=str)
def test_pad_of_any_rank(shape: tuple[int, ...], mode: str, agree: Agree) -> None:
    agree("Pad", floats(*shape), sizes(*[0] * (len(shape) - 1), 1, *[0] * (len(shape) - 1), 2), mode=mode)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad_of_the_channels(mode: str, agree: Agree) -> None:
    agree("Pad", X, sizes(0, 1, 0, 0, 0, 1, 0, 0), mode=mode)


@FIXED
@pytest.mark.parametrize("axes", [(3,), (-1,), (2, 0)], ids=str)
def test_pad_of_named_axes(axes: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    amounts = sizes(*range(1, 2 * len(axes) + 1))
    agree("Pad", X, amounts, np.float32(0.5), np.array(axes, np.int64), fixed=fixed)


def test_pad_of_old_keeps_its_amounts_in_an_attribute(agree: Agree) -> None:
    agree("Pad", X, pads=[0, 0, 1, 2, 0, 0, 0, 3], value=2.5, opset=9)


@FIXED
@pytest.mark.parametrize("target", [(2, 3, -1), (0, 0, 24), (-1,), (0, -1, 6), (6, 4, 6)], ids=str)
def test_reshape(target: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    agree("Reshape", X, sizes(*target), fixed=fixed)


def test_reshape_where_zero_means_zero(agree: Agree) -> None:
    agree("Reshape", floats(0, 3), sizes(3, 0), allowzero=1)


@pytest.mark.parametrize(
    "part", [{}, {"start": 1}, {"end": -1}, {"start": -3, "end": 3}, {"start": 3, "end": 1}], ids=str
)
def test_shape(part: dict[str, int], agree: Agree) -> None:
    agree("Shape", X, **part)


@FIXED
@pytest.mark.parametrize(
    "cut",
    [
        ((0, 1), (2, 3)),
        ((1,), (99,), (3,)),
        ((-3,), (-1,), (-1,)),
        ((0, 0), (99, 99), (2, 3), (2, 4)),
        ((-1,), (-99,), (3,), (-1,)),
        ((4, 2), (0, -99), (3, 2), (-2, -1)),
        ((99,), (-99,), (2,), (-3,)),
        ((3,), (1,), (3,)),
        ((0,), (2**63 - 1,), (1,)),
        ((-99,), (2,), (3,)),
    ],
    ids=str,
)
def test_slice(cut: tuple[tuple[int, ...], ...], fixed: bool, agree: Agree) -> None:
    agree("Slice", X, *(sizes(*part) for part in cut), fixed=fixed)


def test_slice_of_old_keeps_its_bounds_in_attributes(agree: Agree) -> None:
    agree("Slice", X, starts=[1, 0], ends=[3, 2], axes=[3, 2], opset=9)


@FIXED
@pytest.mark.parametrize("axis", [0, -1, 3])
@pytest.mark.parametrize("parts", [(2, 4), (1, 2, 3), (6,)], ids=str)
def test_split_by_sizes(axis: int, parts: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    agree("Split", floats(6, 2, 3, 6), sizes(*parts), axis=axis, outputs=len(parts), fixed=fixed)


@pytest.mark.parametrize(("size", "parts"), [(6, 3), (7, 3), (4, 1)])
def test_split_into_a_number_of_parts(size: int, parts: int, agree: Agree) -> None:
    agree("Split", floats(2, size), axis=1, num_outputs=parts, outputs=parts)


@pytest.mark.parametrize("opset", [11, 13])
def test_split_of_old_is_into_as_many_parts_as_it_has_outputs(opset: int, agree: Agree) -> None:
    agree("Split", floats(2, 6), axis=1, outputs=3, opset=opset)


@FIXED
@pytest.mark.parametrize("axes", [(1,), (-1,), (1, -1)], ids=str)
def test_squeeze(axes: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    agree("Squeeze", floats(2, 1, 3, 1), sizes(*axes), fixed=fixed)


def test_squeeze_of_every_axis_of_one(agree: Agree) -> None:
    agree("Squeeze", floats(2, 1, 3, 1))


def test_squeeze_of_old(agree: Agree) -> None:
    agree("Squeeze", floats(2, 1, 3, 1), axes=[1], opset=11)


@FIXED
@pytest.mark.parametrize("axes", [(0,), (-1,), (3, 1), (-1, 0, 2)], ids=str)
def test_unsqueeze(axes: tuple[int, ...], fixed: bool, agree: Agree) -> None:
    agree("Unsqueeze", floats(2, 3), sizes(*axes), fixed=fixed)


@FIXED
def test_tile(fixed: bool, agree: Agree) -> None:
    agree("Tile", X, sizes(1, 2, 3, 1), fixed=fixed)


@pytest.mark.parametrize("order", [None, (0, 2, 3, 1), (3, 1, 0, 2)], ids=str)
def test_transpose(order: tuple[int, ...] | None, agree: Agree) -> None:
    agree("Transpose", X, **({} if order is None else {"perm": order}))


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -2])
@FIXED
def test_trilu(upper: int, k: int | None, fixed: bool, agree: Agree) -> None:
    agree("Trilu", X, *([] if k is None else [np.array(k)]), upper=upper, fixed=fixed)


@pytest.mark.parametrize(("axis", "index"), [(0, [[1, 0], [0, 0]]), (1, [[2, 0], [-1, 1]]), (-1, [[0], [2]])])
def test_gather_elements(axis: int, index: list[list[int]], agree: Agree) -> None:
    agree("GatherElements", floats(2, 3), np.array(index), axis=axis)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("axis", [0, 2, -1])
@FIXED
def test_cumulative_sum(axis: int, exclusive: int, reverse: int, fixed: bool, agree: Agree) -> None:
    agree("CumSum", X, np.array(axis), exclusive=exclusive, reverse=reverse, fixed=fixed, rtol=1e-4, atol=1e-5)
