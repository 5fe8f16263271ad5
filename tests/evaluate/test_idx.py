"""Reading the IDX format."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from autocompress.core.errors import DataError
from autocompress.evaluate.idx import read_idx

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def encode(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_plain_and_gzipped_files_are_read(tmp_path: Path, pack: type) -> None:
    path = tmp_path / "images"
    path.write_bytes(pack(encode(IMAGES)))
    assert np.array_equal(read_idx(path), IMAGES)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"hello world", "not an IDX file"), (encode(IMAGES)[:-1], "says shape"), (b"\x1f\x8bxx", "Cannot read")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_idx(path)
