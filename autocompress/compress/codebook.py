"""Weights as places in a small table: k-means codebooks, logarithmic steps and powers of two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.derived import Weight
from autocompress.compress.grouping import GroupedWeight, Grouping, rows_in_groups
from autocompress.core.plan import LayerPlan

_ITERATIONS = 30
#: Octaves between logarithmic levels: as many bits as there are should not reach far below what a weight can matter.
_LOG_STEP = {2: 0.5, 3: 0.5, 4: 0.5, 6: 0.5, 8: 0.125}
#: Clipping points tried for logarithmic levels, as shares of the largest weight.
_LOG_SHRINK = np.linspace(1.0, 0.5, 11)


def table_groups(weight: Weight, axis: int, plan: LayerPlan) -> GroupedWeight:
    """A layer's weight as places in the table of its plan's format, times a scale for each group.

    Args:
        weight: any shape.
        axis: of the output channels.
        plan: its format, bits and granularity are read. A codebook of granularity ``tensor`` has scale 1.
    """
    grouping = Grouping.of(weight, axis, plan)
    rows, shape = rows_in_groups(weight, grouping)
    peak = np.maximum(np.abs(rows).max(1, initial=0.0), np.float32(1e-8))
    if plan.format == "codebook":
        scale = np.ones_like(peak) if plan.granularity == "tensor" else peak
        relative = rows / scale[:, None]
        table = kmeans(relative, np.broadcast_to(np.square(scale)[:, None], rows.shape), 2**plan.weight_bits)
        codes = nearest_level(relative, table)
    elif plan.format == "log":
        table = signed_levels(_LOG_STEP[plan.weight_bits], plan.weight_bits)
        codes, scale = _best_scale(rows, table, [peak * np.float32(factor) for factor in _LOG_SHRINK])
    else:
        table = signed_levels(1.0, plan.weight_bits)
        octave = np.ceil(np.log2(peak))
        codes, scale = _best_scale(rows, table, [np.exp2(octave - drop).astype(np.float32) for drop in range(4)])
    return GroupedWeight(grouping=grouping, codes=codes.reshape(shape), scale=scale.reshape(shape[:2]), table=table)


def signed_levels(octaves: float, bits: int) -> NDArray[np.float32]:
    """``(2^bits - 1,)`` levels, rising: 0 and ``±2^(-k * octaves)`` for k from 0.

    Octaves of 1 give powers of two, whose products are shifts (Zhou et al. 2017, "Incremental network quantization");
    of 1/2, base √2 (Miyashita et al. 2016, "Convolutional neural networks using logarithmic data representation",
    section 3.2).
    """
    count = 2 ** (bits - 1) - 1
    magnitudes = np.exp2(-octaves * np.arange(count)).astype(np.float32)
    return np.concatenate([-magnitudes, np.zeros(1, np.float32), magnitudes[::-1]])


def nearest_level(values: NDArray[np.float32], table: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The place of the nearest entry of a rising table, for each value."""
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


def kmeans(values: NDArray[np.float32], weights: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """``(levels,)`` rising means that leave the least weighted squared error, by Lloyd's iterations on a line.

    Starts from even steps, which keep the rare large weights apart (Han et al. 2016, "Deep compression", section 3.2).
    Where any value is 0 so is one of the means: what was pruned stays away.

    Args:
        values: any shape.
        weights: of the squared errors, of the same shape.
        levels: in the table; fewer distinct values repeat the last.
    """
    order = np.argsort(values, axis=None, kind="stable")
    line = values.reshape(-1)[order].astype(np.float64)
    mass = weights.reshape(-1)[order].astype(np.float64)
    if not line.size:
        return np.zeros(levels, np.float32)
    distinct = np.unique(line)
    if len(distinct) <= levels:
        return np.concatenate([distinct, np.full(levels - len(distinct), distinct[-1])]).astype(np.float32)
    masses = np.concatenate([[0.0], np.cumsum(mass)])
    sums = np.concatenate([[0.0], np.cumsum(mass * line)])
    keeps_zero = bool((line == 0).any())
    centers = np.linspace(line[0], line[-1], levels)
    for _ in range(_ITERATIONS):
        if keeps_zero:
            centers[np.argmin(np.abs(centers))] = 0.0
        edges = np.concatenate([[0], np.searchsorted(line, (centers[1:] + centers[:-1]) / 2), [len(line)]])
        held = np.diff(masses[edges])
        moved = np.where(held > 0, np.diff(sums[edges]) / np.where(held > 0, held, 1.0), centers)
        if np.array_equal(moved, centers):
            break
        centers = np.sort(moved)
    if keeps_zero:
        centers[np.argmin(np.abs(centers))] = 0.0
    return centers.astype(np.float32)


def _best_scale(
    rows: NDArray[np.float32], table: NDArray[np.float32], scales: list[NDArray[np.float32]]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and ``(rows,)`` scales with the least squared error among the ``scales`` for each row."""
    best = np.full(len(rows), np.inf)
    codes, scale = np.zeros(rows.shape, np.uint8), np.ones(len(rows), np.float32)
    for trial in scales:
        found = nearest_level(rows / trial[:, None], table)
        error = np.square(table[found] * trial[:, None] - rows).sum(1, dtype=np.float64)
        better = error < best
        best[better], codes[better], scale[better] = error[better], found[better], trial[better]
    return codes, scale
