"""Codes that share bytes come back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.graph.codes import integers_of, packed_codes, unpacked_codes


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bytes_hold_the_first_code_in_their_lowest_bits(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, 2, 16)).astype(np.uint8)
    packed = packed_codes(codes, bits)
    assert packed.shape == (3, 2, 16 * bits // 8)
    assert packed[0, 0, 0] & (2**bits - 1) == codes[0, 0, 0]
    np.testing.assert_array_equal(unpacked_codes(packed, bits), codes)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=40))
def test_what_does_not_fill_a_byte_is_filled_with_zeros(codes: list[int]) -> None:
    found = packed_codes(np.array([codes], np.uint8), 4)
    unpacked = [int(part) for byte in found[0] for part in (byte & 15, byte >> 4)]
    assert unpacked[: len(codes)] == codes
    assert not any(unpacked[len(codes) :])


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2])
def test_narrow_integers_keep_value_and_sign(kind: type) -> None:
    info = ml_dtypes.iinfo(kind)
    found = integers_of(np.arange(info.min, info.max + 1).astype(kind))
    assert found.tolist() == list(range(info.min, info.max + 1))
    assert found.dtype.itemsize == 1
