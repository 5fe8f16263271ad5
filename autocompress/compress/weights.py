"""Integers for weights, remembered so that a search quantizes each only once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.derived import DerivedTensor, Weight, shape_of, whole
from autocompress.compress.peaks import (
    WholeCodes,
    columns_part_to_peak,
    columns_to_peak,
    part_to_peak,
    rows_to_peak,
    whole_codes,
    with_steps_for_zeros,
)

T = TypeVar("T")
#: Clipping points tried for few bits, as shares of the largest weight: clipping outliers buys finer steps for the
#: rest. The best of a Gaussian is about 0.8 for 4 bits and 0.3 to 0.5 for 2.
SHRINK = {
    6: np.linspace(1.0, 0.7, 7),
    4: np.linspace(1.0, 0.5, 11),
    3: np.linspace(1.0, 0.35, 14),
    2: np.linspace(1.0, 0.2, 17),
}
#: Elements worked on at a time: what the nearest caches hold.
_BLOCK = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedWeight:
    """Integers with one scale an output channel.

    Args:
        values: int8, of the weight's shape, within ``[-top, top]`` where there are no zero points.
        scale: ``(channels,)`` float32; ``(values - zero) * scale`` along ``axis`` approximates the weight.
        axis: of the channels.
        zero: ``(channels,)`` zero points of asymmetric integers; None where all are 0.
        per_tensor: whether all channels have one scale and zero point.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int
    zero: NDArray[np.int8] | None = None
    per_tensor: bool = False

    def dequantized(self) -> NDArray[np.float32]:
        """The weight that the integers stand for, of their shape."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        real = self.values.astype(np.float32)
        if self.zero is not None:
            real -= self.zero.reshape(shape)
        real *= self.scale.reshape(shape)
        return real


def top_level(bits: int, *, reduce_range: bool = False) -> int:
    """Largest integer of a symmetric weight; ``reduce_range`` makes 8 bits 7.

    Without VNNI, x86 adds pairs of uint8 x int8 products in saturating 16 bits; 7-bit weights cannot overflow them.
    """
    return int(2 ** (bits - 1) - 1) if bits < 8 or not reduce_range else 63


def quantize_weight(weight: Weight, bits: int, axis: int, *, reduce_range: bool = False) -> QuantizedWeight:
    """Symmetric quantization with one scale a channel; below 8 bits each channel is clipped where it errs least.

    Args:
        weight: any shape.
        bits: 8, 6, 4, 3 or 2.
        axis: of the output channels.
        reduce_range: keep 8-bit weights within 7 bits.
    """
    if bits == 8 and axis == 1 and len(shape_of(weight)) == 2:
        values, scale = columns_to_peak(weight, top_level(bits, reduce_range=reduce_range))
        return QuantizedWeight(values=values, scale=scale, axis=axis)
    moved = weight if axis == 0 else np.ascontiguousarray(np.moveaxis(whole(weight), axis, 0))
    values, scale = symmetric_rows(moved, bits, reduce_range=reduce_range)
    integers = np.moveaxis(values.reshape(shape_of(moved)), 0, axis)
    return QuantizedWeight(values=np.ascontiguousarray(integers), scale=scale, axis=axis)


def symmetric_rows(
    weight: Weight, bits: int, *, reduce_range: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(rows, size)`` symmetric integers of the entries of the first axis, and their ``(rows,)`` steps."""
    top = top_level(bits, reduce_range=reduce_range)
    return rows_to_peak(weight, top) if bits == 8 else _clipped(whole(weight), top, SHRINK[bits])


def with_scale(weight: Weight, quantized: QuantizedWeight, scale: NDArray[np.float32]) -> QuantizedWeight:
    """The same weight with larger scales, ``(channels,)``; only channels whose scale differs are rounded anew."""
    changed = np.flatnonzero(scale != quantized.scale)
    if not len(changed):
        return quantized
    values = np.moveaxis(quantized.values.copy(), quantized.axis, 0)
    rows = np.moveaxis(whole(weight), quantized.axis, 0)[changed]
    flat = np.ascontiguousarray(rows).reshape(len(changed), math.prod(rows.shape[1:]))
    steps = _rounded(flat, scale[changed], 127)
    if quantized.zero is not None:
        steps = np.clip(steps + quantized.zero[changed, None], -128, 127)
    values[changed] = steps.reshape(rows.shape).astype(np.int8)
    integers = np.ascontiguousarray(np.moveaxis(values, 0, quantized.axis))
    return replace(quantized, values=integers, scale=scale)


def _clipped(
    weight: NDArray[np.float32], top: int, shrink: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(channels, size)`` integers and ``(channels,)`` steps that err least."""
    rows = weight.reshape(len(weight), math.prod(weight.shape[1:]))
    values, scale = np.empty(rows.shape, np.int8), np.ones(len(rows), np.float32)
    if rows.size:
        scale = np.asarray(np.maximum(rows.max(1), -rows.min(1)) / np.float32(top), np.float32)
        scale = with_steps_for_zeros(scale)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scale[part] = _least_error(rows[part], scale[part], top, shrink)
        np.copyto(values[part], _rounded(rows[part], scale[part], top), casting="unsafe")
    return values, scale


def _rounded(rows: NDArray[np.float32], scale: NDArray[np.float32], top: int) -> NDArray[np.float32]:
    steps = rows / scale[:, None]
    np.rint(steps, out=steps)
    return np.clip(steps, -top, top, out=steps)


def _least_error(
    rows: NDArray[np.float32], scale: NDArray[np.float32], top: int, shrink: NDArray[np.float64]
) -> NDArray[np.float32]:
    """``(channels,)`` scales with the least squared error over a grid of clipping points, then refined.

    For fixed integers ``q`` the best scale of a channel is ``<w, q> / <q, q>`` (least squares); it is taken for the
    grid's winner where rounding with it is no worse.
    """
    best, error = scale.copy(), np.full(len(rows), np.inf, np.float32)

    def consider(trial: NDArray[np.float32]) -> NDArray[np.float32]:
        integers = _rounded(rows, trial, top)
        difference = integers * trial[:, None]
        np.subtract(rows, difference, out=difference)
        found = np.einsum("ij,ij->i", difference, difference)
        better = found < error
        best[better], error[better] = trial[better], found[better]
        return integers

    for factor in shrink:
        consider(np.asarray(scale * np.float32(factor), np.float32))
    integers = _rounded(rows, best, top)
    square = np.einsum("ij,ij->i", integers, integers)
    projected = np.einsum("ij,ij->i", rows, integers)
    refined = np.where((square > 0) & (projected > 0), projected / np.maximum(square, 1), best)
    consider(np.asarray(refined, np.float32))
    return best


def _is_gathered(weight: DerivedTensor, axis: int) -> bool:
    """Whether a part's integers are gathered from its source's: along rows, or plain columns."""
    by_columns = axis == 1 and len(weight.sizes) == 2 and weight.scale is None
    return bool(weight.axes) and (axis == 0 or by_columns)


class WeightCache:
    """Remembers what was made of weights, by the weight it came from and how it was made.

    Graphs of a search share the arrays they agree on, so an array's identity stands for an initializer and its training
    state; what is kept of it, and its factors, are compared as they are.

    Args:
        capacity_bytes: of what is remembered; see :meth:`remember`. What was used longest ago goes first.
    """

    def __init__(self, capacity_bytes: int = 1 << 29) -> None:
        #: With each weight what was made of it, and the bytes that are counted for both.
        self._entries: OrderedDict[tuple[Hashable, Hashable], tuple[Weight, Any, int]] = OrderedDict()
        self._capacity = capacity_bytes
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, weight: Weight, bits: int, axis: int, *, reduce_range: bool = False) -> QuantizedWeight:
        """The integers of a weight; see :func:`quantize_weight`."""
        return self.remember(
            weight, (bits, axis, reduce_range), lambda: self._quantized(weight, bits, axis, reduce_range=reduce_range)
        )

    def _quantized(self, weight: Weight, bits: int, axis: int, *, reduce_range: bool) -> QuantizedWeight:
        if bits != 8 or not isinstance(weight, DerivedTensor) or not _is_gathered(weight, axis):
            return quantize_weight(weight, bits, axis, reduce_range=reduce_range)
        top, source = top_level(bits, reduce_range=reduce_range), weight.source
        known: WholeCodes = self.remember(
            source, ("whole", top, axis), lambda: whole_codes(source, top, axis), shared=True
        )
        values, scale = (part_to_peak if axis == 0 else columns_part_to_peak)(weight, known, top)
        return QuantizedWeight(values=values.reshape(weight.sizes), scale=scale, axis=axis)

    def remember(self, weight: Weight, how: Hashable, make: Callable[[], T], *, shared: bool = False) -> T:
        """What ``make`` gives for a weight; made once for each ``how``.

        Only the integers count of a weight that a graph holds anyway (``shared``), and of a part that was not computed.
        """
        # The entry keeps the weight, and with it its source, alive, so no other can have its id.
        key = (weight.key if isinstance(weight, DerivedTensor) else id(weight), how)
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            self.hits += 1
            kept: T = found[1]
            return kept
        self.misses += 1
        made = make()
        integers_only = shared or (isinstance(weight, DerivedTensor) and not weight.computed)
        held = math.prod(shape_of(weight)) if integers_only else weight.nbytes
        self._entries[key] = (weight, made, held)
        self._bytes += held
        while self._bytes > self._capacity and len(self._entries) > 1:
            _, (_, _, old) = self._entries.popitem(last=False)
            self._bytes -= old
        return made
