"""Ways to store a sparse matrix, what each takes, and which suits a matrix best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from autocompress.core.errors import UnknownNameError

FloatMatrix = NDArray[np.float32]
#: Sides of the square blocks that BSR is tried with.
BLOCK_SIDES = (16, 8, 4, 2)
#: Share of entries in non-empty blocks that must be non-zero before blocks pay.
FULL_BLOCKS = 0.7
#: Longest row over mean row up to which padding every row to the longest costs little.
REGULAR_ROWS = 1.25


class Stored(Protocol):
    """A matrix in one format."""

    @property
    def nbytes(self) -> int:
        """Bytes of values and indices."""

    def to_dense(self) -> FloatMatrix:
        """The matrix, exactly."""

    def multiply(self, x: FloatMatrix) -> FloatMatrix:
        """``matrix @ x`` for ``x`` of shape ``(columns, n)``."""


@dataclass(frozen=True, slots=True)
class _Scipy:
    """A matrix that scipy holds."""

    matrix: Any

    @property
    def nbytes(self) -> int:
        parts = ("data", "indices", "indptr", "row", "col", "offsets")
        return sum(int(getattr(self.matrix, part).nbytes) for part in parts if hasattr(self.matrix, part))

    def to_dense(self) -> FloatMatrix:
        return np.asarray(self.matrix.toarray(), np.float32)

    def multiply(self, x: FloatMatrix) -> FloatMatrix:
        return np.asarray(self.matrix @ x, np.float32)


@dataclass(frozen=True, slots=True)
class Ellpack:
    """ELLPACK: every row padded to the longest, values and columns as two dense arrays (Rice and Boisvert 1985).

    Args:
        values: ``(rows, width)``; padding is zero.
        columns: ``(rows, width)``; padding points to column 0.
        n_columns: of the matrix.
    """

    values: FloatMatrix
    columns: NDArray[np.int32]
    n_columns: int

    @classmethod
    def of(cls, matrix: FloatMatrix) -> Ellpack:
        """Store a dense matrix."""
        counts = np.count_nonzero(matrix, axis=1)
        width = int(counts.max(initial=0))
        values = np.zeros((len(matrix), width), np.float32)
        columns = np.zeros((len(matrix), width), np.int32)
        rows, places = np.nonzero(matrix)
        slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        values[rows, slots] = matrix[rows, places]
        columns[rows, slots] = places
        return cls(values, columns, matrix.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of values and columns."""
        return int(self.values.nbytes + self.columns.nbytes)

    def to_dense(self) -> FloatMatrix:
        """The matrix, exactly."""
        dense = np.zeros((len(self.values), self.n_columns), np.float32)
        rows = np.repeat(np.arange(len(self.values)), self.values.shape[1])
        # Added, as padding shares column 0 with what may really be there.
        np.add.at(dense, (rows, self.columns.ravel()), self.values.ravel())
        return dense

    def multiply(self, x: FloatMatrix) -> FloatMatrix:
        """``matrix @ x``, slot by slot, so that no array of all products is made."""
        result = np.zeros((len(self.values), x.shape[1]), np.float32)
        for slot in range(self.values.shape[1]):
            result += self.values[:, slot, None] * x[self.columns[:, slot]]
        return result


@dataclass(frozen=True, slots=True)
class Dense:
    """The matrix as it is."""

    matrix: FloatMatrix

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return int(self.matrix.nbytes)

    def to_dense(self) -> FloatMatrix:
        """The matrix."""
        return self.matrix

    def multiply(self, x: FloatMatrix) -> FloatMatrix:
        """``matrix @ x``."""
        return self.matrix @ x


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What of a matrix decides how to store it.

    Args:
        density: share of entries that are not zero.
        blockiness: block side to the share of non-zeros in its non-empty blocks.
        bandwidth: farthest a non-zero lies from the diagonal, as a share of the longer side.
        diagonals: how many diagonals hold a non-zero.
        regularity: longest row over mean row; 1 where all rows are alike.
    """

    density: float
    blockiness: dict[int, float]
    bandwidth: float
    diagonals: int
    regularity: float


def structure_of(matrix: FloatMatrix) -> Structure:
    """Measure a matrix."""
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix)) if len(rows) else np.zeros(len(matrix))
    offsets = columns - rows
    mean = counts.mean() if counts.size else 0.0
    return Structure(
        density=len(rows) / max(1, matrix.size),
        blockiness={side: _fill(matrix, side) for side in BLOCK_SIDES if min(matrix.shape) >= side},
        bandwidth=float(np.abs(offsets).max(initial=0)) / max(1, *matrix.shape),
        diagonals=len(np.unique(offsets)),
        regularity=float(counts.max(initial=0) / mean) if mean else 1.0,
    )


def choose_format(matrix: FloatMatrix) -> str:
    """The format that suits a matrix: few full diagonals, full blocks, rows alike, or none of these.

    Returns:
        One of :data:`FORMATS`; ``dense`` where nothing takes fewer bytes.
    """
    found = structure_of(matrix)
    nonzeros = found.density * matrix.size
    candidates: list[str] = []
    if found.diagonals and nonzeros / (found.diagonals * min(matrix.shape)) >= FULL_BLOCKS:
        candidates.append("dia")
    if any(fill >= FULL_BLOCKS for fill in found.blockiness.values()):
        candidates.append("bsr")
    if found.regularity <= REGULAR_ROWS:
        candidates.append("ell")
    candidates += ["csc" if matrix.shape[0] > matrix.shape[1] else "csr"]
    if nonzeros < min(matrix.shape):
        candidates.append("coo")
    best = min(candidates, key=lambda name: store(matrix, name).nbytes)
    return best if store(matrix, best).nbytes < matrix.nbytes else "dense"


def store(matrix: FloatMatrix, name: str) -> Stored:
    """Store a matrix.

    Args:
        matrix: ``(rows, columns)`` float32.
        name: one of :data:`FORMATS`, or ``auto``.

    Raises:
        UnknownNameError: another name.
    """
    if name == "auto":
        name = choose_format(matrix)
    if name not in FORMATS:
        raise UnknownNameError("sparse format", name, [*FORMATS, "auto"])
    return FORMATS[name](np.ascontiguousarray(matrix, np.float32))


def _bsr(matrix: FloatMatrix) -> Stored:
    """BSR with the largest block that is full enough; blocks must tile the matrix."""
    fitting = [s for s in BLOCK_SIDES if matrix.shape[0] % s == 0 and matrix.shape[1] % s == 0]
    side = next((s for s in fitting if _fill(matrix, s) >= FULL_BLOCKS), min(fitting, default=1))
    return _Scipy(sparse.bsr_array(matrix, blocksize=(side, side)))


def _fill(matrix: FloatMatrix, side: int) -> float:
    """Share of non-zeros in the non-empty blocks of ``side`` rows and columns."""
    rows, columns = (math.ceil(size / side) for size in matrix.shape)
    padded = np.zeros((rows * side, columns * side), np.bool_)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix != 0
    counts = padded.reshape(rows, side, columns, side).sum((1, 3))
    used = np.count_nonzero(counts)
    return float(counts.sum() / (used * side * side)) if used else 0.0


#: Name to what stores a dense matrix that way.
FORMATS: dict[str, Callable[[FloatMatrix], Stored]] = {
    "dense": Dense,
    "csr": lambda matrix: _Scipy(sparse.csr_array(matrix)),
    "csc": lambda matrix: _Scipy(sparse.csc_array(matrix)),
    "coo": lambda matrix: _Scipy(sparse.coo_array(matrix)),
    "bsr": _bsr,
    "ell": Ellpack.of,
    "dia": lambda matrix: _Scipy(sparse.dia_array(matrix)),
}
