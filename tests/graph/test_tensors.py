"""Tensors, shapes and types that many values share."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from autocompress.graph.tensors import contiguous, fixed_shape, shape_of_tensor, tensor_of


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.array(3.0, np.float32), np.zeros((0, 4), np.int8)])
def test_an_array_becomes_a_tensor_without_a_copy(array: np.ndarray) -> None:
    tensor = tensor_of(array, "a")
    assert tensor.numpy() is array
    assert tensor.name == "a"
    assert tensor.dtype == ir.DataType.from_numpy(array.dtype)
    assert tuple(tensor.shape) == array.shape
    assert shape_of_tensor(tensor) is fixed_shape(array.shape)


def test_elements_may_be_called_otherwise() -> None:
    tensor = tensor_of(np.array([1, -2], ml_dtypes.int4), "a", dtype=ir.DataType.INT4)
    assert tensor.dtype == ir.DataType.INT4
    assert tensor.tobytes() == b"\xe1"


def test_what_is_shared_cannot_be_changed() -> None:
    shape = fixed_shape((2, 3))
    assert shape is fixed_shape((2, 3))
    with pytest.raises(TypeError):
        shape[0] = 4


def test_a_scalar_stays_one_and_a_copy_is_made_only_where_needed() -> None:
    assert contiguous(np.asarray(np.float32(3))).shape == ()
    array = np.arange(12.0).reshape(3, 4)
    assert contiguous(array) is array
    assert contiguous(array.T).flags.c_contiguous
