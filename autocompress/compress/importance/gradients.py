"""Importance read from gradients: what removing a channel changes in the loss, to first and to second order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.importance.members import Score, Scores, aggregate, of_role, sum_by_unit
from autocompress.compress.importance.sampling import drawn_batches
from autocompress.core.errors import DataError
from autocompress.core.layer import PruneGroup
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import torch

    from autocompress.graph.executor import GraphModule


def taylor_scores(
    graph: ModelGraph,
    groups: Iterable[PruneGroup],
    dataset: Dataset,
    *,
    rng: np.random.Generator,
    samples: int = 256,
    aggregation: str | None = None,
) -> Scores:
    """First-order Taylor scores, averaged over batches.

    The squared change of the loss when a channel is removed, ``(sum of weight * gradient) ** 2`` (Molchanov et al.
    2019, equation 8), over the weights that read the channel: zeroing those *is* removing it.

    With class labels the loss is the log-odds of the right class in the first output, each sample's with a random sign.
    Its gradient is that of the cross-entropy without the factor ``1 - p``, which vanishes on samples that the model is
    sure of, as it is of most of its training data; the signs keep samples from cancelling out in the square. Without
    labels, or where they do not fit the output, the loss is the projection of all outputs onto a random normal vector:
    its squared change is, on average, the squared first-order change of the outputs themselves (the estimator of
    Hutchinson 1990 for the trace of ``J J^T``), so the model is its own teacher. The cross-entropy to the model's own
    soft labels would not do: its gradient is zero.

    Args:
        graph: that the groups are of.
        groups: to score.
        dataset: what the model will see.
        rng: draws samples and projections.
        samples: how many to read, at most.
        aggregation: over the squared changes of each layer that reads the channels; where None their changes are added
            before they are squared.

    Returns:
        Group name to ``(channels,)`` raw scores.

    Raises:
        DataError: a label that no class of the output has, or too little data.
    """
    groups = list(groups)
    totals = {group.name: np.zeros(group.channels) for group in groups}
    for products in _products(graph, groups, dataset, rng, samples):
        for group in groups:
            changes = _reader_sums(products, group)
            if not changes:
                continue
            if aggregation is None:
                totals[group.name] += aggregate(changes, "sum") ** 2
            else:
                totals[group.name] += aggregate([change**2 for change in changes], aggregation)
    return totals


def fisher_scores(
    graph: ModelGraph,
    groups: Iterable[PruneGroup],
    dataset: Dataset,
    *,
    rng: np.random.Generator,
    samples: int = 256,
    aggregation: str | None = None,
) -> Scores:
    """Second-order scores: half the sum of ``weight ** 2 * curvature`` over the weights that read a channel.

    This is the saliency of optimal brain damage and surgeon (LeCun et al. 1990, equation 5; Hassibi & Stork 1993) with
    a diagonal Hessian, and the Fisher information in its place: the sum over samples of squared gradients (Theis et al.
    2018, section 3; Molchanov et al. 2019, section 3). The loss is that of :func:`taylor_scores`. Its random signs make
    the squared gradient of a batch, on average, the sum of its samples' squared gradients: what one sample has with
    another cancels out, so one backward pass a batch is enough.

    Args:
        graph: that the groups are of.
        groups: to score.
        dataset: what the model will see.
        rng: draws samples and projections.
        samples: how many to read, at most.
        aggregation: over the layers that read the channels; their sum where None.

    Returns:
        Group name to ``(channels,)`` raw scores.

    Raises:
        DataError: a label that no class of the output has, or too little data.
    """
    groups = list(groups)
    totals = {group.name: np.zeros(group.channels) for group in groups}
    squares: dict[str, NDArray[np.float64]] = {}
    for products in _products(graph, groups, dataset, rng, samples):
        for name, product in products.items():
            squares[name] = squares.get(name, 0) + np.square(product, dtype=np.float64)
    for group in groups:
        losses = _reader_sums(squares, group)
        if losses:
            totals[group.name] = aggregate(losses, aggregation or "sum") / 2
    return totals


def _products(
    graph: ModelGraph, groups: list[PruneGroup], dataset: Dataset, rng: np.random.Generator, samples: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """For each batch, weight times gradient of every weight that reads channels."""
    import torch

    from autocompress.graph.executor import GraphModule

    module = GraphModule(graph).eval()
    weights = _trainable(module, groups)
    if not weights:
        return
    for inputs, labels in drawn_batches(graph, dataset, rng, samples):
        module.zero_grad()
        outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
        loss = _loss(outputs if isinstance(outputs, tuple) else (outputs,), labels, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        yield {name: _product(weight) for name, weight in weights.items()}


def _reader_sums(arrays: Mapping[str, NDArray[Any]], group: PruneGroup) -> list[Score]:
    """``(channels,)`` sums by unit, one for each weight that reads the group's channels."""
    readers = (member for member in of_role(group, "in") if member.initializer in arrays)
    return [sum_by_unit(arrays[member.initializer], member) for member in readers]


def _trainable(module: GraphModule, groups: Iterable[PruneGroup]) -> Mapping[str, torch.Tensor]:
    """Weights that read channels, by initializer name; only these need gradients."""
    known = module.named_initializers()
    names = {member.initializer for group in groups for member in of_role(group, "in")} & known.keys()
    for name, tensor in known.items():
        tensor.requires_grad_(name in names)
    return {name: known[name] for name in names}


def _product(weight: torch.Tensor) -> NDArray[Any]:
    if weight.grad is None:
        return np.zeros(tuple(weight.shape), np.float32)
    return np.asarray((weight.detach() * weight.grad).numpy())


def _loss(outputs: tuple[torch.Tensor, ...], labels: NDArray[Any] | None, rng: np.random.Generator) -> torch.Tensor:
    import torch

    logits = outputs[0]
    classes = logits.ndim == 2 and logits.shape[1] > 1 and logits.requires_grad
    if classes and labels is not None and labels.dtype.kind in "iu" and labels.shape == logits.shape[:1]:
        return _signed_log_odds(logits, labels, rng)
    parts = [
        (output * torch.from_numpy(rng.standard_normal(tuple(output.shape)).astype(np.float32))).sum()
        for output in outputs
        if output.is_floating_point() and output.requires_grad
    ]
    return torch.stack(parts).sum()


def _signed_log_odds(logits: torch.Tensor, labels: NDArray[Any], rng: np.random.Generator) -> torch.Tensor:
    import torch

    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"Labels must be within 0 to {classes - 1}, but they go from {labels.min()} to {labels.max()}.")
    right = torch.from_numpy(labels.astype(np.int64))[:, None]
    others = logits.scatter(1, right, -torch.inf).logsumexp(1)
    signs = torch.from_numpy(rng.choice(np.array([-1, 1], np.float32), len(labels)))
    return ((logits.gather(1, right)[:, 0] - others) * signs).sum()
