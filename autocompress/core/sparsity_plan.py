"""Which of a layer's weights become zero."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from autocompress.core.errors import PlanError

SPARSITY_PATTERNS = ("unstructured", "block", "n:m")
SPARSITY_STORAGES = ("dense", "sparse")


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityPlan:
    """Which of a layer's weights become zero, and how the rest is stored.

    Args:
        pattern: ``unstructured`` (largest magnitudes stay), ``block`` (blocks with the largest norms stay) or ``n:m``
            (``n`` of every ``m`` inputs stay).
        ratio: share of weights or blocks that become zero; not read for ``n:m``.
        block_rows: output channels in a block.
        block_columns: inputs (times kernel positions) in a block.
        n: inputs that stay.
        m: of so many.
        storage: ``dense``, or ``sparse`` for an ONNX sparse initializer where the layer's weights stay float32.
    """

    pattern: str = "unstructured"
    ratio: float = 0.5
    block_rows: int = 4
    block_columns: int = 4
    n: int = 2
    m: int = 4
    storage: str = "dense"

    def __post_init__(self) -> None:
        if self.pattern not in SPARSITY_PATTERNS:
            raise PlanError(f"`pattern` must be one of {SPARSITY_PATTERNS}, but got {self.pattern!r}.")
        if self.storage not in SPARSITY_STORAGES:
            raise PlanError(f"`storage` must be one of {SPARSITY_STORAGES}, but got {self.storage!r}.")
        if not 0 <= self.ratio < 1:
            raise PlanError(f"The sparsity `ratio` must be in [0, 1), but got {self.ratio!r}.")
        if self.block_rows < 1 or self.block_columns < 1:
            raise PlanError(
                f"A block must have at least one row and column, but got {self.block_rows} x {self.block_columns}."
            )
        if not 0 < self.n < self.m:
            raise PlanError(f"N:M sparsity needs 0 < n < m, but got {self.n}:{self.m}.")

    @property
    def label(self) -> str:
        """Short name such as ``2:4``, ``unstructured 0.9 sparse`` or ``block 4x4 0.8``."""
        kept = {
            "n:m": f"{self.n}:{self.m}",
            "block": f"block {self.block_rows}x{self.block_columns} {self.ratio:g}",
        }.get(self.pattern, f"{self.pattern} {self.ratio:g}")
        return kept if self.storage == "dense" else f"{kept} {self.storage}"

    @classmethod
    def from_label(cls, label: str) -> SparsityPlan:
        """The plan that has this :attr:`label`.

        Raises:
            PlanError: not such a label.
        """
        found = re.fullmatch(
            r"(?:(?P<n>\d+):(?P<m>\d+)|(?:unstructured|block (?P<rows>\d+)x(?P<columns>\d+)) (?P<ratio>[\d.]+))"
            r"(?P<sparse> sparse)?",
            label,
        )
        if found is None:
            raise PlanError(
                f"A sparsity is called like '2:4', 'unstructured 0.9 sparse' or 'block 4x4 0.8', but got {label!r}."
            )
        values: dict[str, Any] = {"storage": "sparse" if found["sparse"] else "dense"}
        if found["n"]:
            return cls(pattern="n:m", n=int(found["n"]), m=int(found["m"]), **values)
        if found["rows"]:
            values |= {"pattern": "block", "block_rows": int(found["rows"]), "block_columns": int(found["columns"])}
        return cls(ratio=float(found["ratio"]), **values)
