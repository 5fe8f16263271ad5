"""Which single weights go: unstructured, in blocks, or N of every M."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import PlanError

Mask = NDArray[np.bool_]


def unstructured_mask(weight: NDArray[np.floating[Any]], ratio: float) -> Mask:
    """Keep the largest magnitudes of the whole weight (Han et al. 2015).

    Args:
        weight: of any shape.
        ratio: share of entries that become zero, in ``[0, 1)``.

    Returns:
        Mask of the weight's shape, True where an entry stays; a higher ratio keeps a subset of what a lower one keeps.

    Raises:
        PlanError: a ratio outside ``[0, 1)``.
    """
    _check_ratio(ratio)
    return _largest(np.abs(weight).ravel(), ratio).reshape(weight.shape)


def block_mask(weight: NDArray[np.floating[Any]], ratio: float, block: tuple[int, int]) -> Mask:
    """Keep the blocks with the largest norms (Narang et al. 2017, with the Euclidean norm).

    Args:
        weight: ``(rows, ...)``; seen as a matrix of ``rows`` and the product of the rest.
        ratio: share of blocks that become zero, in ``[0, 1)``.
        block: rows and columns of a block; blocks at the far edges may be smaller.

    Returns:
        Mask of the weight's shape.

    Raises:
        PlanError: a ratio outside ``[0, 1)`` or a block without rows or columns.
    """
    _check_ratio(ratio)
    height, width = block
    if height < 1 or width < 1:
        raise PlanError(f"`block` must have at least one row and column, but got {block}.")
    matrix = as_matrix(weight)
    rows, columns = matrix.shape
    tiles = (-(-rows // height), -(-columns // width))
    padded = np.zeros((tiles[0] * height, tiles[1] * width), np.float64)
    padded[:rows, :columns] = matrix
    norms = np.square(padded).reshape(tiles[0], height, tiles[1], width).sum((1, 3))
    kept = _largest(norms.ravel(), ratio).reshape(tiles)
    return np.repeat(np.repeat(kept, height, 0), width, 1)[:rows, :columns].reshape(weight.shape)


def n_of_m_mask(weight: NDArray[np.floating[Any]], n: int, m: int) -> Mask:
    """Keep the ``n`` largest magnitudes of every ``m`` neighbours along the inputs (Mishra et al. 2021, 2:4).

    Args:
        weight: ``(out, in, ...)``; neighbours lie along axis 1, as hardware for 2:4 wants them.
        n: entries that stay.
        m: of so many; where ``in`` is no multiple of it, the last few keep at most ``n``.

    Returns:
        Mask of the weight's shape.

    Raises:
        PlanError: not ``0 < n < m``, or a weight of fewer than two axes.
    """
    if not 0 < n < m:
        raise PlanError(f"N:M sparsity needs 0 < n < m, but got {n}:{m}.")
    if weight.ndim < 2:
        raise PlanError(f"N:M sparsity needs a weight of at least two axes, but got shape {weight.shape}.")
    magnitudes = np.abs(np.moveaxis(weight, 1, -1))
    inputs = magnitudes.shape[-1]
    groups = -(-inputs // m)
    padded = np.full((*magnitudes.shape[:-1], groups * m), -1.0)
    padded[..., :inputs] = magnitudes
    order = np.argsort(-padded.reshape(-1, m), axis=1, kind="stable")
    kept = np.zeros((len(order), m), np.bool_)
    np.put_along_axis(kept, order[:, :n], True, axis=1)
    return np.ascontiguousarray(np.moveaxis(kept.reshape(padded.shape)[..., :inputs], -1, 1))


def as_matrix(weight: NDArray[Any]) -> NDArray[Any]:
    """A weight as ``(out, everything else)``."""
    return weight.reshape(weight.shape[0], -1) if weight.ndim > 1 else weight.reshape(1, -1)


def _check_ratio(ratio: float) -> None:
    if not 0 <= ratio < 1:
        raise PlanError(f"A sparsity ratio must be in [0, 1), but got {ratio!r}.")


def _largest(scores: NDArray[np.floating[Any]], ratio: float) -> Mask:
    """The largest scores, at least one; ties go to the earlier entry, so that keep sets are nested."""
    keep = max(1, round(scores.size * (1.0 - ratio)))
    mask = np.zeros(scores.size, np.bool_)
    mask[np.argsort(-scores, kind="stable")[:keep]] = True
    return mask
