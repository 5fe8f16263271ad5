"""Inputs as plain JSON values, for a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autocompress.core.protocols import Batch


def to_plain(sample: Batch | None) -> list[dict[str, Any]] | None:
    """The first sample of each input."""
    return None if sample is None else [_plain(array) for array in sample]


def from_plain(values: Sequence[Mapping[str, Any]] | None) -> Batch | None:
    """What :func:`to_plain` gave."""
    if values is None:
        return None
    return tuple(np.asarray(v["values"], dtype=np.dtype(v["dtype"])).reshape(v["shape"]) for v in values)


def _plain(array: Any) -> dict[str, Any]:
    first = np.asarray(array)[:1]
    return {"dtype": first.dtype.str, "shape": list(first.shape), "values": first.ravel().tolist()}
