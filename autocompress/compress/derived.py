"""Weights described by others: the entries that are kept, times a factor for each output channel.

A search quantizes most weights that pruning and folding make, and never reads them as floats. Read a few rows at a time
they stay in a processor's cache, and no copy of all weights is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

#: Rows are gathered in blocks that stay in a processor's cache.
_BLOCK_BYTES = 1 << 18


class DerivedTensor(ir.LazyTensor):
    """A part of an array, computed when it is read; whole, it is computed once.

    Args:
        source: what it comes from; stays as it is.
        axes: axis of ``source`` to the sorted indices that stay; axes that are not named stay whole.
        scale: ``(rows,)`` factors of the first axis' kept entries, of the source's type.
        name: of the tensor.
        dtype: as the graph calls the source's type.
    """

    def __init__(
        self,
        source: NDArray[Any],
        axes: Mapping[int, NDArray[np.intp]],
        *,
        name: str | None,
        dtype: ir.DataType,
        scale: NDArray[Any] | None = None,
    ) -> None:
        sizes = tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(source.shape))
        super().__init__(self._whole, dtype, ir.Shape(sizes), cache=True, name=name)
        self._source = source
        self._axes = dict(sorted(axes.items()))
        self._scale = scale
        self._sizes = sizes

    def scaled(self, scale: NDArray[Any], name: str | None) -> DerivedTensor:
        """This tensor with each entry of the first axis times its ``(rows,)`` factor."""
        if self._tensor is not None or self._scale is not None:
            return DerivedTensor(self.numpy(), {}, name=name, dtype=self.dtype, scale=scale)
        return DerivedTensor(self._source, self._axes, name=name, dtype=self.dtype, scale=scale)

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Entries ``start`` to ``stop`` of the first axis; not to be written to."""
        if self._tensor is not None:
            return np.asarray(self._tensor.numpy()[start:stop])
        block = self._source[self._axes[0][start:stop]] if 0 in self._axes else self._source[start:stop]
        for axis, kept in self._axes.items():
            if axis:
                block = block.take(kept, axis)
        if self._scale is not None:
            factors = self._scale[start:stop].reshape(-1, *(1,) * (block.ndim - 1))
            block = np.multiply(block, factors, out=None if np.may_share_memory(block, self._source) else block)
        return np.asarray(block)

    def _whole(self) -> ir.TensorProtocol:
        array = np.empty(self._sizes, self._source.dtype)
        row_bytes = max(1, self._source.nbytes // max(1, self._source.shape[0]))
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, self._sizes[0], step):
            array[start : start + step] = self.rows(start, start + step)
        return ir.Tensor(array, dtype=self.dtype, name=self.name)


def read_rows(weight: NDArray[Any] | DerivedTensor, start: int, stop: int) -> NDArray[Any]:
    """Entries ``start`` to ``stop`` of a weight's first axis; not to be written to."""
    return weight.rows(start, stop) if isinstance(weight, DerivedTensor) else weight[start:stop]


def whole(weight: NDArray[Any] | DerivedTensor) -> NDArray[Any]:
    """All of a weight."""
    return np.asarray(weight.numpy()) if isinstance(weight, DerivedTensor) else weight
