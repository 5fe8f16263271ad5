"""Weights cut into groups that share a scale, and what quantized groups stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.derived import Weight, shape_of, whole
from autocompress.core.plan import LayerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """How a weight is cut: ``(rows, groups, size)``, where each ``size`` numbers share a scale.

    Args:
        shape: of the weight.
        axis: of its output channels.
        granularity: ``tensor`` makes one row of one group; ``channel`` a row a channel of one group; ``block`` a row a
            channel of groups of ``block_size``, the last one filled up with zeros.
        block_size: of ``block``.
    """

    shape: tuple[int, ...]
    axis: int
    granularity: str
    block_size: int = 32

    @classmethod
    def of(cls, weight: Weight, axis: int, plan: LayerPlan) -> Grouping:
        """How a layer's plan cuts its weight."""
        return cls(shape=shape_of(weight), axis=axis, granularity=plan.granularity, block_size=plan.block_size)

    @property
    def moved(self) -> tuple[int, ...]:
        """The weight's shape with its output channels first."""
        return (self.shape[self.axis], *self.shape[: self.axis], *self.shape[self.axis + 1 :])

    @property
    def width(self) -> int:
        """Numbers in an output channel."""
        return math.prod(self.moved[1:])

    @property
    def blocks(self) -> int:
        """Blocks that an output channel fills, the last perhaps in part."""
        return -(-self.width // self.block_size)

    def split(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(rows, groups, size)`` of a weight."""
        rows = np.moveaxis(weight, self.axis, 0).reshape(self.moved[0], self.width)
        if self.granularity == "tensor":
            return rows.reshape(1, 1, rows.size)
        if self.granularity == "channel":
            return rows[:, None, :]
        padded = np.zeros((len(rows), self.blocks * self.block_size), weight.dtype)
        padded[:, : self.width] = rows
        return padded.reshape(len(rows), self.blocks, self.block_size)

    def join(self, groups: NDArray[np.generic]) -> NDArray[np.generic]:
        """The weight's shape again from ``(rows, groups, size)``, without what was filled up."""
        filled = self.blocks * self.block_size if self.granularity == "block" else self.width
        rows = groups.reshape(self.moved[0], filled)[:, : self.width]
        return np.ascontiguousarray(np.moveaxis(rows.reshape(self.moved), 0, self.axis))

    def spread(self, scale: NDArray[np.generic]) -> NDArray[np.generic]:
        """``(rows, 1)`` numbers as they are multiplied with a whole weight: ``()``, or 1 but along the channels."""
        if self.granularity == "tensor":
            return scale.reshape(())
        shape = [1] * len(self.shape)
        shape[self.axis] = -1
        return scale.reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupedWeight:
    """A weight in few bits: ``(codes - zero) * scale``, or ``table[codes] * scale``, for each group.

    Args:
        grouping: how the weight is cut.
        codes: ``(rows, groups, size)``; int8, or uint8 places in ``table``.
        scale: ``(rows, groups)`` float32.
        zero: ``(rows, groups)`` int8 zero points; None where all are 0.
        table: ``(levels,)`` float32 that codes stand for; None where they stand for themselves.
    """

    grouping: Grouping
    codes: NDArray[np.int8] | NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.int8] | None = None
    table: NDArray[np.float32] | None = None

    def dequantized(self) -> NDArray[np.float32]:
        """The weight, of its shape, to the last bit as the artifact's operators compute it."""
        real = self.codes.astype(np.float32) if self.table is None else self.table[self.codes]
        if self.zero is not None:
            real -= self.zero[..., None].astype(np.float32)
        return np.asarray(self.grouping.join(real * self.scale[..., None]), np.float32)


def rows_in_groups(weight: Weight, grouping: Grouping) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """``(rows * groups, size)`` of a weight, and ``(rows, groups, size)``."""
    groups = grouping.split(whole(weight))
    rows, count, size = groups.shape
    return np.ascontiguousarray(groups).reshape(rows * count, size), (rows, count, size)
