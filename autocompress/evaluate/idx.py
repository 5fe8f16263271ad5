"""The IDX format of MNIST and its kin (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError

_UINT8 = 0x08


def read_idx(path: Path) -> NDArray[Any]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Returns:
        ``uint8`` array of the shape in the file's header.

    Raises:
        DataError: it cannot be read or is no such file.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Cannot read {str(path)!r}: {error}.") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UINT8:
        raise DataError(f"{str(path)!r} is not an IDX file of unsigned bytes.")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) - start != math.prod(shape):
        raise DataError(f"{str(path)!r} says shape {tuple(shape)} but holds {len(data) - start} bytes.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
