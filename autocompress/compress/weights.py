"""Integers for weights, remembered so that a search quantizes each only once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.derived import Weight, rows_of, shape_of, whole

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
#: A smaller step is not a normal number: dividing by it is inexact.
_TINY = np.finfo(np.float32).tiny


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
        values, scale = _columns_to_peak(weight, top_level(bits, reduce_range=reduce_range))
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
    return _to_peak(weight, top) if bits == 8 else _clipped(whole(weight), top, SHRINK[bits])


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


def _to_peak(weight: Weight, top: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(channels, size)`` integers and ``(channels,)`` steps that reach each channel's peak."""
    channels, *sizes = shape_of(weight)
    size = math.prod(sizes)
    values, scale = np.empty((channels, size), np.int8), np.ones(channels, np.float32)
    if not values.size:
        return values, scale
    step = max(1, _BLOCK // size)
    buffer = np.empty((min(step, channels), size), np.float32)
    for start in range(0, channels, step):
        rows = rows_of(weight, start, start + step).reshape(-1, size)
        steps = scale[start : start + step]
        scratch = buffer[: len(rows)]
        np.abs(rows, out=scratch)
        np.divide(scratch.max(1), np.float32(top), out=steps)
        # A channel of zeros has no step yet, and any gives zeros. Nothing needs clipping: the peak's step reaches it.
        np.divide(rows, np.where(steps < _TINY, np.float32(1), steps)[:, None], out=scratch)
        np.rint(scratch, out=scratch)
        np.copyto(values[start : start + step], scratch, casting="unsafe")
    return values, _with_steps_for_zeros(scale)


def _columns_to_peak(weight: Weight, top: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The same for ``(size, channels)``, as MatMul keeps its weight: read in the order it lies in memory, twice."""
    size, channels = shape_of(weight)
    values, scale = np.empty((size, channels), np.int8), np.zeros(channels, np.float32)
    if not values.size:
        return values, np.ones(channels, np.float32)
    step = max(1, _BLOCK // channels)
    buffer = np.empty((min(step, size), channels), np.float32)
    parts = [(start, rows_of(weight, start, start + step)) for start in range(0, size, step)]
    for _, rows in parts:
        np.maximum(scale, np.abs(rows, out=buffer[: len(rows)]).max(0), out=scale)
    np.divide(scale, np.float32(top), out=scale)
    steps = np.where(scale < _TINY, np.float32(1), scale)
    for start, rows in parts:
        scratch = buffer[: len(rows)]
        np.divide(rows, steps, out=scratch)
        np.rint(scratch, out=scratch)
        np.copyto(values[start : start + step], scratch, casting="unsafe")
    return values, _with_steps_for_zeros(scale)


def _clipped(
    weight: NDArray[np.float32], top: int, shrink: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(channels, size)`` integers and ``(channels,)`` steps that err least."""
    rows = weight.reshape(len(weight), math.prod(weight.shape[1:]))
    values, scale = np.empty(rows.shape, np.int8), np.ones(len(rows), np.float32)
    if rows.size:
        scale = np.asarray(np.maximum(rows.max(1), -rows.min(1)) / np.float32(top), np.float32)
        scale = _with_steps_for_zeros(scale)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        scale[part] = _least_error(rows[part], scale[part], top, shrink)
        np.copyto(values[part], _rounded(rows[part], scale[part], top), casting="unsafe")
    return values, scale


def _with_steps_for_zeros(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """A channel of zeros gets the largest step of the others."""
    scale[scale < _TINY] = max(float(scale.max()), 1e-8)
    return scale


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


class WeightCache:
    """Remembers what was made of weights, by the weight it came from and how it was made.

    Graphs of a search share the weights they agree on (pruning and folding are cached too), so the object itself stands
    for (initializer, kept channels, training state), and nothing needs to be hashed.

    Args:
        capacity_bytes: of float weights whose integers are remembered; the least recently used go first.
    """

    def __init__(self, capacity_bytes: int = 1 << 29) -> None:
        self._entries: OrderedDict[tuple[int, Hashable], tuple[Weight, Any]] = OrderedDict()
        self._capacity = capacity_bytes
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, weight: Weight, bits: int, axis: int, *, reduce_range: bool = False) -> QuantizedWeight:
        """The integers of a weight; see :func:`quantize_weight`."""
        return self.remember(
            weight,
            (bits, axis, reduce_range),
            lambda: quantize_weight(weight, bits, axis, reduce_range=reduce_range),
        )

    def remember(self, weight: Weight, how: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives for a weight; made once for each ``how``."""
        # The entry keeps the weight alive, so no other can have its id.
        key = (id(weight), how)
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            self.hits += 1
            kept: T = found[1]
            return kept
        self.misses += 1
        made = make()
        self._entries[key] = (weight, made)
        self._bytes += weight.nbytes
        while self._bytes > self._capacity and len(self._entries) > 1:
            _, (old, _) = self._entries.popitem(last=False)
            self._bytes -= old.nbytes
        return made
