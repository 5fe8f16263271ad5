"""Sparse matrices in every format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autocompress.compress.sparse_formats import FORMATS, Ellpack, choose_format, store, structure_of
from autocompress.compress.sparsity import block_mask, n_of_m_mask, unstructured_mask
from autocompress.core.errors import UnknownNameError


def _weight(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([*FORMATS, "auto"]),
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    ratio=st.floats(0, 0.98),
    seed=st.integers(0, 99),
)
def test_every_format_gives_the_matrix_back_and_multiplies(
    name: str, rows: int, columns: int, ratio: float, seed: int
) -> None:
    weight = _weight(rows, columns, seed)
    matrix = np.where(unstructured_mask(weight, ratio), weight, np.float32(0))
    stored = store(matrix, name)
    np.testing.assert_array_equal(stored.to_dense(), matrix)
    x = _weight(columns, 3, seed + 1)
    np.testing.assert_allclose(stored.multiply(x), matrix @ x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_empty_matrix_is_stored_too(name: str) -> None:
    matrix = np.zeros((4, 8), np.float32)
    assert not store(matrix, name).to_dense().any()


def test_bytes_are_those_of_values_and_indices() -> None:
    matrix = np.where(unstructured_mask(_weight(64, 64), 0.9), _weight(64, 64), np.float32(0))
    nonzeros = np.count_nonzero(matrix)
    assert store(matrix, "csr").nbytes == nonzeros * 8 + 65 * 4
    assert store(matrix, "coo").nbytes == nonzeros * 12
    widest = np.count_nonzero(matrix, axis=1).max()
    assert store(matrix, "ell").nbytes == 64 * widest * 8


def test_auto_takes_blocks_for_blocks() -> None:
    weight = _weight(64, 64)
    assert choose_format(np.where(block_mask(weight, 0.8, (8, 8)), weight, np.float32(0))) == "bsr"


def test_auto_takes_even_rows_for_n_of_m_where_rows_are_alike() -> None:
    weight = _weight(32, 64)
    matrix = np.where(n_of_m_mask(weight, 1, 8), weight, np.float32(0))
    assert structure_of(matrix).regularity == 1.0
    assert choose_format(matrix) == "ell"


def test_auto_takes_diagonals_for_a_band() -> None:
    matrix = np.where(np.abs(np.subtract.outer(range(64), range(64))) <= 1, _weight(64, 64), np.float32(0))
    assert choose_format(matrix) == "dia"
    assert structure_of(matrix).bandwidth == pytest.approx(1 / 64)


def test_auto_leaves_a_full_matrix_dense() -> None:
    assert choose_format(_weight(32, 32)) == "dense"
    weight = _weight(32, 32)
    assert choose_format(np.where(unstructured_mask(weight, 0.3), weight, np.float32(0))) == "dense"


def test_auto_takes_rows_for_what_has_no_pattern() -> None:
    weight = _weight(64, 128)
    assert choose_format(np.where(unstructured_mask(weight, 0.9), weight, np.float32(0))) == "csr"


def test_padding_of_ellpack_does_not_touch_column_0() -> None:
    matrix = np.array([[1, 0, 0], [2, 3, 4]], np.float32)
    stored = Ellpack.of(matrix)
    np.testing.assert_array_equal(stored.to_dense(), matrix)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'csr'"):
        store(np.zeros((2, 2), np.float32), "crs")
