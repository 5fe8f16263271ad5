"""Integers in even steps for groups of weights, symmetric or with zero points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.derived import Weight
from autocompress.compress.grouping import GroupedWeight, Grouping, rows_in_groups
from autocompress.compress.weights import SHRINK, QuantizedWeight, symmetric_rows
from autocompress.core.plan import LayerPlan

_LEAST = 1e-8
_WHOLE_RANGE = np.ones(1)


def affine_groups(weight: Weight, axis: int, plan: LayerPlan, *, reduce_range: bool = False) -> GroupedWeight:
    """Uniform integers, with one scale (and zero point) for each channel, tensor or block as the plan says.

    Args:
        weight: any shape.
        axis: of the output channels.
        plan: its bits, granularity and symmetry are read.
        reduce_range: keep 8-bit integers within 7 bits.
    """
    grouping = Grouping.of(weight, axis, plan)
    rows, shape = rows_in_groups(weight, grouping)
    zero = None
    if plan.symmetric:
        codes, scale = symmetric_rows(rows, plan.weight_bits, reduce_range=reduce_range)
    else:
        bits = 7 if reduce_range and plan.weight_bits == 8 else plan.weight_bits
        codes, scale, zeros = asymmetric_rows(rows, bits)
        zero = zeros.reshape(shape[:2])
    return GroupedWeight(grouping=grouping, codes=codes.reshape(shape), scale=scale.reshape(shape[:2]), zero=zero)


def asymmetric_rows(
    rows: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """Integers of ``[-2^(bits-1), 2^(bits-1) - 1]`` over each row's own range, zero included and exact.

    ``scale = (high - low) / (2^bits - 1)`` and ``zero = round(bottom - low / scale)`` (Jacob et al. 2018, section 2.1).
    Below 7 bits both ends are drawn in together, as far as the squared error falls.

    Args:
        rows: ``(rows, size)``.
        bits: of the integers.

    Returns:
        ``(rows, size)`` codes, ``(rows,)`` scales, ``(rows,)`` zero points.
    """
    bottom, top = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low = np.minimum(rows.min(1, initial=0.0), 0.0).astype(np.float64)
    high = np.maximum(rows.max(1, initial=0.0), 0.0).astype(np.float64)
    best = np.full(len(rows), np.inf)
    codes, scale = np.zeros(rows.shape, np.int8), np.ones(len(rows), np.float32)
    zero = np.zeros(len(rows), np.int8)
    for factor in SHRINK.get(bits, _WHOLE_RANGE):
        steps = np.maximum((high - low) * factor / (top - bottom), _LEAST).astype(np.float32)
        middle = np.clip(np.rint(bottom - low * factor / steps), bottom, top).astype(np.float32)
        trial = np.clip(np.rint(rows / steps[:, None]) + middle[:, None], bottom, top)
        error = np.square((trial - middle[:, None]) * steps[:, None] - rows).sum(1, dtype=np.float64)
        better = error < best
        best[better], codes[better] = error[better], trial[better].astype(np.int8)
        scale[better], zero[better] = steps[better], middle[better].astype(np.int8)
    return codes, scale, zero


def integer_weight(weight: Weight, axis: int, plan: LayerPlan, *, reduce_range: bool = False) -> QuantizedWeight:
    """Integers for an integer kernel: one scale (and zero point) a channel; all the same for granularity ``tensor``."""
    return as_channels(affine_groups(weight, axis, plan, reduce_range=reduce_range))


def as_channels(grouped: GroupedWeight) -> QuantizedWeight:
    """Groups of granularity ``channel`` or ``tensor`` as one scale (and zero point) a channel."""
    grouping = grouped.grouping
    channels = grouping.shape[grouping.axis]

    def each(numbers: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.ascontiguousarray(np.broadcast_to(numbers.reshape(-1), channels))

    return QuantizedWeight(
        values=np.asarray(grouping.join(grouped.codes), np.int8),
        scale=np.asarray(each(grouped.scale), np.float32),
        axis=grouping.axis,
        zero=None if grouped.zero is None else np.asarray(each(grouped.zero), np.int8),
        per_tensor=grouping.granularity == "tensor",
    )
