"""Tensors and shapes of graphs under construction: every candidate of a search makes hundreds of them.

A shape that says nothing but sizes is made once and shared: it is frozen, so a value takes a new one in place of
changing it, as with clones. Types are not shared: onnx_ir changes them in place where a value gets another element
type.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


@lru_cache(maxsize=1 << 12)
def fixed_shape(sizes: tuple[int, ...]) -> ir.Shape:
    """A frozen shape of known sizes."""
    return ir.Shape(sizes, frozen=True)


@lru_cache(maxsize=64)
def _data_type(dtype: np.dtype[Any]) -> ir.DataType:
    return ir.DataType.from_numpy(dtype)


def tensor_of(array: NDArray[Any], name: str | None, *, dtype: ir.DataType | None = None) -> ir.TensorProtocol:
    """An array as a tensor, without a copy; ``dtype`` is its own where None."""
    kind = _data_type(array.dtype) if dtype is None else dtype
    return ir.Tensor(array, dtype=kind, shape=fixed_shape(array.shape), name=name)


def shape_of_tensor(tensor: ir.TensorProtocol) -> ir.Shape:
    """A tensor's own shape: it never changes, so a value may share it."""
    shape = tensor.shape
    return shape if isinstance(shape, ir.Shape) and shape.frozen else fixed_shape(tuple(shape.numpy()))


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array in C order, itself where it is so already; a scalar stays one (`np.ascontiguousarray` adds an axis)."""
    return np.asarray(array, order="C")
