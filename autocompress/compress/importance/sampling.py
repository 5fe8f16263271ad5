"""Samples for importance: a bounded number, drawn once, in batches that the graph and the memory take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError
from autocompress.core.protocols import Batch, Dataset
from autocompress.graph.model_graph import ModelGraph

_BATCH_SIZE = 16
#: What is looked at of a batch is held at once.
_BATCH_BYTES = 1 << 28


def drawn_batches(
    graph: ModelGraph, dataset: Dataset, rng: np.random.Generator, samples: int, size: int = _BATCH_SIZE
) -> Iterator[tuple[Batch, NDArray[Any] | None]]:
    """Inputs and labels of samples drawn without repetition, in the data's order.

    Args:
        graph: a batch size that it is fixed to wins over ``size``.
        dataset: to draw from.
        rng: draws them, when the first batch is asked for.
        samples: at most as many.
        size: samples in a batch.

    Raises:
        DataError: there is no data, or less than the batch that the graph is fixed to.
    """
    if len(dataset) == 0:
        raise DataError(f"Importance needs data, but {dataset.name!r} is empty.")
    fixed = _fixed_batch(graph)
    if fixed is not None:
        if len(dataset) < fixed:
            raise DataError(f"The model takes batches of {fixed}, but there are only {len(dataset)} samples.")
        size, samples = fixed, max(1, min(samples, len(dataset)) // fixed) * fixed
    chosen = np.sort(rng.permutation(len(dataset))[:samples])
    for start in range(0, len(chosen), size):
        yield dataset.batch(chosen[start : start + size])


def size_for(graph: ModelGraph, values: Iterable[str]) -> int:
    """How many samples of these values fit into memory, at most the usual batch."""
    shapes = (graph.value_shape(name) or () for name in values)
    one = 4 * sum(math.prod(size or 1 for size in shape[1:]) for shape in shapes)
    return max(1, min(_BATCH_SIZE, _BATCH_BYTES // max(1, one)))


def _fixed_batch(graph: ModelGraph) -> int | None:
    if graph.batch_axis_dynamic:
        return None
    return next((spec.shape[0] for spec in graph.input_specs if spec.shape and spec.shape[0] is not None), None)
