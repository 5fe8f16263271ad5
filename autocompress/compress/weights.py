"""Integers for weights, remembered so that a search quantizes each only once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Clipping points tried for few bits, as shares of the largest weight: clipping outliers buys finer steps for the
#: rest. The best of a Gaussian is about 0.8 for 4 bits and 0.3 to 0.5 for 2.
_SHRINK = {4: np.linspace(1.0, 0.5, 11), 2: np.linspace(1.0, 0.2, 17)}
#: Elements worked on at a time: what the nearest caches hold.
_BLOCK = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedWeight:
    """Symmetric integers with one scale an output channel.

    Args:
        values: int8, of the weight's shape, within ``[-top, top]``.
        scale: ``(channels,)`` float32; ``values * scale`` along ``axis`` approximates the weight.
        axis: of the channels.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int


def top_level(bits: int, *, reduce_range: bool = False) -> int:
    """Largest integer of a symmetric weight; ``reduce_range`` makes 8 bits 7.

    Without VNNI, x86 adds pairs of uint8 x int8 products in saturating 16 bits; 7-bit weights cannot overflow them.
    """
    return int(2 ** (bits - 1) - 1) if bits < 8 or not reduce_range else 63


def quantize_weight(
    weight: NDArray[np.float32], bits: int, axis: int, *, reduce_range: bool = False
) -> QuantizedWeight:
    """Symmetric quantization with one scale a channel; below 8 bits each channel is clipped where it errs least.

    Args:
        weight: any shape.
        bits: 8, 4 or 2.
        axis: of the output channels.
        reduce_range: keep 8-bit weights within 7 bits.
    """
    top = top_level(bits, reduce_range=reduce_range)
    moved = np.moveaxis(weight, axis, 0)
    rows = np.ascontiguousarray(moved).reshape(len(moved), -1)
    scale = _scales(rows, top)
    values = np.empty(rows.shape, np.int8)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        if bits < 8:
            scale[part] = _least_error(rows[part], scale[part], top, _SHRINK[bits])
        np.copyto(values[part], _rounded(rows[part], scale[part], top), casting="unsafe")
    integers = np.moveaxis(values.reshape(moved.shape), 0, axis)
    return QuantizedWeight(values=np.ascontiguousarray(integers), scale=scale, axis=axis)


def with_scale(weight: NDArray[np.float32], quantized: QuantizedWeight, scale: NDArray[np.float32]) -> QuantizedWeight:
    """The same weight with other scales, ``(channels,)``; only channels whose scale differs are rounded anew."""
    changed = np.flatnonzero(scale != quantized.scale)
    if not len(changed):
        return quantized
    values = np.moveaxis(quantized.values.copy(), quantized.axis, 0)
    rows = np.moveaxis(weight, quantized.axis, 0)[changed]
    flat = np.ascontiguousarray(rows).reshape(len(changed), -1)
    values[changed] = _rounded(flat, scale[changed], 127).reshape(rows.shape).astype(np.int8)
    integers = np.ascontiguousarray(np.moveaxis(values, 0, quantized.axis))
    return QuantizedWeight(values=integers, scale=scale, axis=quantized.axis)


def _scales(rows: NDArray[np.float32], top: int) -> NDArray[np.float32]:
    """``(channels,)`` steps that reach each channel's peak; a channel of zeros gets the largest of the others."""
    if not rows.size:
        return np.ones(len(rows), np.float32)
    peak = np.maximum(rows.max(1), -rows.min(1))
    scale = np.asarray(peak / np.float32(top), np.float32)
    scale[scale < np.finfo(np.float32).tiny] = max(float(scale.max()), 1e-8)
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
    """Remembers quantized weights by the array they came from, bits, axis and range.

    Graphs of a search share the arrays they agree on (pruning and folding are cached too), so the array itself stands
    for (initializer, kept channels, training state), and nothing needs to be hashed.

    Args:
        capacity_bytes: of float weights whose integers are remembered; the least recently used go first.
    """

    def __init__(self, capacity_bytes: int = 1 << 29) -> None:
        self._entries: OrderedDict[tuple[int, int, int, bool], tuple[NDArray[Any], QuantizedWeight]] = OrderedDict()
        self._capacity = capacity_bytes
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, weight: NDArray[np.float32], bits: int, axis: int, *, reduce_range: bool = False) -> QuantizedWeight:
        """The integers of a weight; see :func:`quantize_weight`."""
        # The entry keeps the array alive, so no other array can have its id.
        key = (id(weight), bits, axis, reduce_range)
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            self.hits += 1
            return found[1]
        self.misses += 1
        made = quantize_weight(weight, bits, axis, reduce_range=reduce_range)
        self._entries[key] = (weight, made)
        self._bytes += weight.nbytes
        while self._bytes > self._capacity and len(self._entries) > 1:
            _, (old, _) = self._entries.popitem(last=False)
            self._bytes -= old.nbytes
        return made
