"""New running statistics for BatchNormalization after the layers before it have changed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from autocompress.core.errors import CandidateError, DataError
from autocompress.core.protocols import Dataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph

#: Values of a channel from which its mean and variance can be told: of 16 and fewer they do harm.
FEWEST = 32


def reestimate_batch_norm(
    graph: ModelGraph, dataset: Dataset, *, samples: int = 512, batch_size: int = 64
) -> ModelGraph:
    """Replace the running statistics of every BatchNormalization by those of the data.

    Args:
        graph: after pruning.
        dataset: its labels are not used.
        samples: how many, spread evenly over the data.
        batch_size: samples in one forward pass; each pass normalizes by its own statistics.

    Returns:
        A graph with new statistics; the same graph where it has no BatchNormalization, or one would see fewer than
        :data:`FEWEST` values a channel: worse than none are those of a handful.

    Raises:
        CandidateError: the statistics are not finite.
        DataError: there is no data.
    """
    module = GraphModule(graph, channels_last=True)
    count = min(samples, len(dataset))
    if next(module.batch_norms(), None) is None or 0 < count < -(-FEWEST // _fewest_positions(graph)):
        return graph
    update_statistics(module, clean_batches(graph, dataset, samples, batch_size))
    return graph.with_weights(module)


def _fewest_positions(graph: ModelGraph) -> int:
    """Of one sample, before any BatchNormalization; a size that is open counts as one."""
    shapes = [
        graph.value_shape(str(node.inputs[0].name)) or ()
        for node in graph.model.graph
        if node.op_type == "BatchNormalization" and node.inputs[0] is not None
    ]
    return min(math.prod(size or 1 for size in shape[2:]) for shape in shapes)


def clean_batches(graph: ModelGraph, dataset: Dataset, samples: int, batch_size: int) -> Iterable[tuple[Tensor, ...]]:
    """Batches of samples spread evenly over the data, nearly equal in size so that none is left with one sample.

    Where the graph insists on a batch size, all are of that size and what is left over is dropped.

    Raises:
        DataError: there is no data.
    """
    if len(dataset) == 0:
        raise DataError(f"The data set {dataset.name!r} is empty.")
    count = min(samples, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).astype(np.intp)
    fixed = fixed_batch(graph)
    if fixed is None:
        parts = np.array_split(chosen, -(-count // batch_size))
    else:
        # Too few to fill one batch are repeated: some statistics are better than those of another network.
        chosen = np.resize(chosen, max(count, fixed))
        parts = [chosen[i : i + fixed] for i in range(0, len(chosen) - fixed + 1, fixed)]
    for part in parts:
        inputs, _ = dataset.batch(part)
        yield tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs)


def fixed_batch(graph: ModelGraph) -> int | None:
    """The batch size that the graph insists on; None where any will do."""
    if graph.batch_axis_dynamic:
        return None
    sizes = [spec.shape[0] for spec in graph.input_specs if spec.shape and spec.shape[0] is not None]
    return sizes[0] if sizes else None


@torch.no_grad()
def update_statistics(module: GraphModule, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Set a module's running statistics, in place, to mean and variance over all batches.

    The variance is the mean of the batches' variances plus the variance of their means (law of total variance), so
    the result is that of one pass over all samples, whatever the order.

    Args:
        module: left in the mode it was in.
        batches: inputs of the module.

    Raises:
        CandidateError: the statistics are not finite.
    """
    pairs = [(module.initializer(mean), module.initializer(var)) for mean, var in module.batch_norms()]
    if not pairs:
        return
    sums = [(torch.zeros_like(m, dtype=torch.float64), torch.zeros_like(v, dtype=torch.float64)) for m, v in pairs]
    total, training, momentum = 0, module.training, module.momentum
    # With momentum 1 the running statistics are those of the last batch.
    module.train()
    module.momentum = 1.0
    try:
        for batch in batches:
            module(*batch)
            size = len(batch[0])
            total += size
            for (mean, var), (first, second) in zip(pairs, sums, strict=True):
                first += size * mean.double()
                second += size * (var.double() + mean.double() ** 2)
    finally:
        module.train(training)
        module.momentum = momentum
    for (mean, var), (first, second) in zip(pairs, sums, strict=True):
        if total:
            mean.copy_(first / total)
            var.copy_((second / total - (first / total) ** 2).clamp_min(0.0))
        if not (bool(mean.isfinite().all()) and bool(var.isfinite().all())):
            raise CandidateError("heal", "statistics of BatchNormalization are not finite")
