"""Small integers in numpy: types narrower than a byte, and codes that share bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def integers_of(array: NDArray[Any]) -> NDArray[Any]:
    """4- and 2-bit integers as 8-bit ones; all else as it is."""
    name = array.dtype.name
    if name in ("int4", "int2"):
        return array.astype(np.int8)
    return array.astype(np.uint8) if name in ("uint4", "uint2") else array


def unpacked_codes(array: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes along the last axis from bytes that hold the first in their lowest bits."""
    if bits == 8:
        return array
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((array[..., None] >> shifts) & np.uint8(2**bits - 1)).reshape(*array.shape[:-1], -1)


def packed_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes along the last axis in bytes, the first in the lowest bits; what does not fill a byte is filled with 0."""
    if bits == 8:
        return codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    each = len(shifts)
    filled = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    parts = filled.reshape(*codes.shape[:-1], -1, each) << shifts
    return np.asarray(np.bitwise_or.reduce(parts, axis=-1), np.uint8)
