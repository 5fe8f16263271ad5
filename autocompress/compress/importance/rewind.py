"""Rewinding to early weights: what a lottery ticket starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import PlanError, nearest
from autocompress.graph.model_graph import ModelGraph


def rewound(graph: ModelGraph, early: Mapping[str, NDArray[Any]]) -> ModelGraph:
    """A graph with the weights it had early in training (Frankle & Carbin 2019; Frankle et al. 2020, section 3).

    Args:
        graph: as it was trained.
        early: initializer name to value, such as ``early_graph.initializers``. Of the graph's floats those that it has
            are taken; every layer's weight must be among them, and names that the graph does not have are passed over.

    Raises:
        PlanError: a layer's weight is missing, or a shape differs.
    """
    missing = next((layer.weight for layer in graph.layers() if layer.weight not in early), None)
    if missing is not None:
        near = nearest(missing, early)
        hint = f"; the nearest name is {near!r}." if near else "."
        raise PlanError(f"The early weights have no {missing!r}{hint}")
    taken: dict[str, NDArray[Any]] = {}
    for name, array in graph.initializers.items():
        if name not in early or array.dtype.kind != "f":
            continue
        value = np.asarray(early[name])
        if value.shape != array.shape:
            raise PlanError(f"The early weight {name!r} must have shape {array.shape}, but has {value.shape}.")
        taken[name] = value.astype(array.dtype, copy=False)
    return graph.with_initializers(taken)
