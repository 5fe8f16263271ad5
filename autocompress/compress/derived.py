"""Weights described by others: the entries that are kept, times a factor for each output channel.

A search quantizes most weights that pruning and folding make, and never reads them as floats. Read a few rows at a time
they stay in a processor's cache, and no float copy of all weights is made.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.graph.tensors import fixed_shape

#: Rows are gathered in blocks that stay in a processor's cache.
_BLOCK_BYTES = 1 << 18


class _Recipe:
    """Entries of an array, and what they are multiplied by; computed whole once, when that is asked for."""

    def __init__(
        self, source: NDArray[Any], axes: Mapping[int, NDArray[np.intp]], scale: NDArray[Any] | None, dtype: ir.DataType
    ) -> None:
        self.source = source
        self.axes = dict(sorted(axes.items()))
        self.scale = scale
        self.dtype = dtype
        self.sizes = tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(source.shape))
        self.made: ir.TensorProtocol | None = None

    def __call__(self) -> ir.TensorProtocol:
        if self.made is None:
            array = np.empty(self.sizes, self.source.dtype)
            step = max(1, _BLOCK_BYTES * len(self.source) // max(1, self.source.nbytes))
            for start in range(0, len(array), step):
                array[start : start + step] = self.rows(start, start + step)
            self.made = ir.Tensor(array, dtype=self.dtype)
        return self.made

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        if self.made is not None:
            return self.made.numpy()[start:stop]
        block = self.part(self.axes[0][start:stop] if 0 in self.axes else slice(start, stop))
        if self.scale is None:
            return block
        factors = self.scale[start:stop].reshape(-1, *[1] * (block.ndim - 1))
        return np.asarray(np.multiply(block, factors, out=block if self.axes else None))

    def part(self, rows: NDArray[np.intp] | slice) -> NDArray[Any]:
        """Rows of the source, without the entries of other axes that leave."""
        block = self.source[rows]
        for axis, kept in self.axes.items():
            if axis > 0:
                block = block.take(kept, axis)
        return block


class DerivedTensor(ir.LazyTensor):
    """A part of an array, computed when it is read; whole, it is computed once.

    Args:
        source: what it comes from; stays as it is.
        axes: axis of ``source`` to the sorted indices that stay; axes that are not named stay whole.
        scale: ``(rows,)`` factors of the first axis' kept entries, of the source's type.
        dtype: as the graph calls the source's type.
        name: of the tensor.
    """

    def __init__(
        self,
        source: NDArray[Any],
        axes: Mapping[int, NDArray[np.intp]],
        *,
        dtype: ir.DataType,
        name: str | None,
        scale: NDArray[Any] | None = None,
    ) -> None:
        self._recipe = _Recipe(source, axes, scale, dtype)
        self._key: Hashable = None
        super().__init__(self._recipe, dtype, fixed_shape(self._recipe.sizes), name=name)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape as numbers."""
        return self._recipe.sizes

    @property
    def computed(self) -> bool:
        """Whether it was read whole, and so holds an array of its own."""
        return self._recipe.made is not None

    @property
    def source(self) -> NDArray[Any]:
        """What it comes from; not to be written to."""
        return self._recipe.source

    @property
    def axes(self) -> Mapping[int, NDArray[np.intp]]:
        """Axis of the source, in order, to the sorted indices that stay."""
        return self._recipe.axes

    @property
    def scale(self) -> NDArray[Any] | None:
        """``(rows,)`` factors of what stays of the first axis."""
        return self._recipe.scale

    @property
    def key(self) -> Hashable:
        """The same for tensors that hold the same part of one source, as long as one of them lives."""
        if self._key is None:
            recipe = self._recipe
            axes = tuple((axis, kept.tobytes()) for axis, kept in recipe.axes.items())
            self._key = (id(recipe.source), axes, None if recipe.scale is None else recipe.scale.tobytes())
        return self._key

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Entries ``start`` to ``stop`` of the first axis; not to be written to."""
        return self._recipe.rows(start, stop)

    def unscaled_rows(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """The given entries of the first axis without their factors; not to be written to."""
        axes = self._recipe.axes
        return self._recipe.part(axes[0][rows] if 0 in axes else rows)

    def scaled(self, scale: NDArray[Any], name: str) -> DerivedTensor:
        """This tensor with each entry of the first axis times its ``(rows,)`` factor."""
        recipe = self._recipe
        if recipe.scale is not None:
            return DerivedTensor(recipe().numpy(), {}, dtype=self.dtype, name=name, scale=scale)
        # Also where it was read: what is made of a part must not depend on that.
        return DerivedTensor(recipe.source, recipe.axes, dtype=self.dtype, name=name, scale=scale)


Weight = NDArray[Any] | DerivedTensor


def weight_of(value: ir.Value | None) -> Weight:
    """What an initializer holds, without computing it."""
    assert value is not None
    assert value.const_value is not None
    tensor = value.const_value
    return tensor if isinstance(tensor, DerivedTensor) else tensor.numpy()


def whole(weight: Weight) -> NDArray[Any]:
    """All of a weight as an array."""
    return weight.numpy() if isinstance(weight, DerivedTensor) else weight


def shape_of(weight: Weight) -> tuple[int, ...]:
    """Sizes of a weight."""
    return weight.sizes if isinstance(weight, DerivedTensor) else weight.shape


def rows_of(weight: Weight, start: int, stop: int) -> NDArray[Any]:
    """Entries ``start`` to ``stop`` of a weight's first axis; not to be written to."""
    return weight.rows(start, stop) if isinstance(weight, DerivedTensor) else weight[start:stop]
