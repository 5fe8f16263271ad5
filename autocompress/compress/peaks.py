"""8-bit integers that reach the peak of each channel: of an array, and of a part of one.

A search prunes the same weights again and again. Where a channel's largest weight stays, its step stays and so do its
integers: they are gathered from those of the whole weight, and only other channels are rounded anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.derived import DerivedTensor, Weight, rows_of, shape_of

#: Elements worked on at a time: what the nearest caches hold.
_BLOCK = 1 << 15
#: A smaller step is not a normal number: dividing by it is inexact.
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeCodes:
    """Integers of an array that others take parts of.

    Args:
        values: int8, of the array's shape.
        steps: ``(channels,)`` float32, what an integer stands for; below a normal number where a channel is zeros.
        places: ``(channels,)`` where in its channel the largest weight stands.
    """

    values: NDArray[np.int8]
    steps: NDArray[np.float32]
    places: NDArray[np.intp]


def whole_codes(source: NDArray[np.float32], top: int, axis: int = 0) -> WholeCodes:
    """Integers within ``[-top, top]`` of an array, one step for each entry of an axis: the first, or 1 of two."""
    places = np.zeros(source.shape[axis], np.intp)
    values, steps = _column_codes(source, top, places) if axis == 1 else _codes(source, top, places)
    return WholeCodes(values=values.reshape(source.shape), steps=steps, places=places)


def rows_to_peak(weight: Weight, top: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(channels, size)`` integers and ``(channels,)`` steps that reach each channel's peak."""
    values, steps = _codes(weight, top)
    return values, with_steps_for_zeros(steps)


def part_to_peak(weight: DerivedTensor, whole: WholeCodes, top: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The same of a part of an array whose integers are known.

    A factor of a channel changes its step, and its sign, not the integers' magnitudes: against the product's own
    integers only what lies in the middle between two may differ.
    """
    axes = weight.axes
    rows = axes.get(0)
    values = whole.values if rows is None else whole.values[rows]
    steps, places = (whole.steps.copy(), whole.places) if rows is None else (whole.steps[rows], whole.places[rows])
    stays = np.ones(len(steps), np.bool_)
    for axis, kept in axes.items():
        if axis == 0:
            continue
        values = values.take(kept, axis)
        sizes = weight.source.shape
        there = np.zeros(sizes[axis], np.bool_)
        there[kept] = True
        stays &= there[places // math.prod(sizes[axis + 1 :]) % sizes[axis]]
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    if values is whole.values:
        flat = flat.copy()
    lost = np.flatnonzero(~stays)
    if len(lost):
        flat[lost], steps[lost] = _codes(weight.unscaled_rows(lost), top)
    if weight.scale is not None:
        # Too small for a step of its own, a channel may be large enough with its factor.
        small = np.flatnonzero((steps < _TINY) & (weight.scale != 0))
        steps *= np.abs(weight.scale)
        turned = np.flatnonzero(weight.scale < 0)
        flat[turned] = -flat[turned]
        if len(small):
            plain = weight.unscaled_rows(small)
            flat[small], steps[small] = _codes(plain * weight.scale[small].reshape(-1, *[1] * (plain.ndim - 1)), top)
    flat[steps < _TINY] = 0
    return flat, with_steps_for_zeros(steps)


def columns_to_peak(weight: Weight, top: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(size, channels)`` integers, as MatMul keeps its weight, and ``(channels,)`` steps."""
    values, steps = _column_codes(weight, top)
    return values, with_steps_for_zeros(steps)


def columns_part_to_peak(
    weight: DerivedTensor, whole: WholeCodes, top: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The same of a part, without factors, of an array whose integers are known; some of an axis leave."""
    rows, columns = weight.axes.get(0), weight.axes.get(1)
    kept = np.arange(len(whole.steps)) if columns is None else columns
    values = whole.values if rows is None else whole.values[rows]
    values = values if columns is None else values.take(columns, 1)
    steps, lost = whole.steps[kept], np.zeros(0, np.intp)
    if rows is not None:
        there = np.zeros(len(whole.values), np.bool_)
        there[rows] = True
        lost = np.flatnonzero(~there[whole.places[kept]])
    if rows is not None and len(lost):
        # Blocks of rows stay in a processor's cache while their lost columns are picked.
        source, picked = weight.source, np.empty((len(rows), len(lost)), np.float32)
        step = max(1, _BLOCK // source.shape[1])
        for start in range(0, len(rows), step):
            picked[start : start + step] = source[rows[start : start + step]].take(kept[lost], 1)
        values[:, lost], steps[lost] = _column_codes(picked, top)
    return values, with_steps_for_zeros(steps)


def with_steps_for_zeros(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """A channel of zeros gets the largest step of the others."""
    if scale.size:
        scale[scale < _TINY] = max(float(scale.max()), 1e-8)
    return scale


def _codes(
    weight: Weight, top: int, places: NDArray[np.intp] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """``(rows, size)`` integers and ``(rows,)`` steps; ``places``, ``(rows,)``, gets where the peaks stand."""
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
        if places is not None:
            places[start : start + step] = scratch.argmax(1)
        np.divide(scratch.max(1), np.float32(top), out=steps)
        # A channel of zeros has no step yet, and any gives zeros. Nothing needs clipping: the peak's step reaches it.
        np.divide(rows, np.where(steps < _TINY, np.float32(1), steps)[:, None], out=scratch)
        np.rint(scratch, out=scratch)
        np.copyto(values[start : start + step], scratch, casting="unsafe")
    return values, scale


def _column_codes(
    weight: Weight, top: int, places: NDArray[np.intp] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The same for ``(size, channels)``: read in the order it lies in memory, twice."""
    size, channels = shape_of(weight)
    values, scale = np.empty((size, channels), np.int8), np.zeros(channels, np.float32)
    if not values.size:
        return values, np.ones(channels, np.float32)
    step = max(1, _BLOCK // channels)
    buffer = np.empty((min(step, size), channels), np.float32)
    parts = [(start, rows_of(weight, start, start + step)) for start in range(0, size, step)]
    for start, rows in parts:
        magnitudes = np.abs(rows, out=buffer[: len(rows)])
        if places is not None:
            found = magnitudes.argmax(0)
            # NaN counts as the largest, and the first one stays.
            higher = ~(magnitudes[found, np.arange(channels)] <= scale) & ~np.isnan(scale)
            places[higher] = start + found[higher]
        np.maximum(scale, magnitudes.max(0), out=scale)
    np.divide(scale, np.float32(top), out=scale)
    steps = np.where(scale < _TINY, np.float32(1), scale)
    for start, rows in parts:
        scratch = buffer[: len(rows)]
        np.divide(rows, steps, out=scratch)
        np.rint(scratch, out=scratch)
        np.copyto(values[start : start + step], scratch, casting="unsafe")
    return values, scale
