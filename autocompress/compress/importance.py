"""How much each channel matters: one score a unit, higher is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError, PlanError, UnknownNameError
from autocompress.core.layer import GroupMember, PruneGroup
from autocompress.core.plan import IMPORTANCES
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import torch

    from autocompress.graph.executor import GraphModule

Scores = dict[str, NDArray[np.float64]]

_BATCH_SIZE = 16


def channel_scores(
    graph: ModelGraph,
    groups: Iterable[PruneGroup],
    method: str,
    *,
    dataset: Dataset | None = None,
    rng: np.random.Generator | None = None,
    samples: int = 256,
) -> Scores:
    """Score the units of each group.

    ``l1`` and ``l2`` are norms of the filters that make a channel (Li et al. 2017), averaged over the layers of the
    group. ``taylor`` is the squared first-order change of the loss when the channel is removed, ``(sum of weight *
    gradient) ** 2`` (Molchanov et al. 2019, equation 8), over the weights that read the channel: zeroing those *is*
    removing it. See :func:`taylor_scores` for the loss. ``random`` is uniform.

    Args:
        graph: that the groups are of.
        groups: to score; blocked ones are passed over.
        method: one of :data:`~autocompress.core.plan.IMPORTANCES`.
        dataset: for ``taylor``.
        rng: for ``random``, and for what ``taylor`` samples; a fixed seed where None.
        samples: how many samples ``taylor`` reads.

    Returns:
        Group name to ``(channels,)`` scores, scaled to a mean of one within each group.

    Raises:
        UnknownNameError: an unknown method.
        PlanError: ``taylor`` without data.
    """
    wanted = [group for group in groups if group.prunable]
    rng = rng if rng is not None else np.random.default_rng(0)
    if method not in IMPORTANCES:
        raise UnknownNameError("importance", method, IMPORTANCES)
    if method == "random":
        raw = {group.name: rng.random(group.channels) for group in wanted}
    elif method == "taylor":
        if dataset is None:
            raise PlanError("Importance 'taylor' needs data: give --data, or use 'l1' or 'l2'.")
        raw = taylor_scores(graph, wanted, dataset, rng=rng, samples=samples)
    else:
        order = 1 if method == "l1" else 2
        raw = {group.name: _norms(graph, group, order) for group in wanted}
    return {name: _normalized(score) for name, score in raw.items()}


def taylor_scores(
    graph: ModelGraph, groups: Iterable[PruneGroup], dataset: Dataset, *, rng: np.random.Generator, samples: int = 256
) -> Scores:
    """First-order Taylor scores, averaged over batches.

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

    Returns:
        Group name to ``(channels,)`` raw scores.

    Raises:
        DataError: a label that no class of the output has.
    """
    import torch

    from autocompress.graph.executor import GraphModule

    groups = list(groups)
    module = GraphModule(graph).eval()
    weights = _trainable(module, groups)
    totals = {group.name: np.zeros(group.channels) for group in groups}
    chosen = np.sort(rng.permutation(len(dataset))[:samples])
    for start in range(0, len(chosen), _BATCH_SIZE):
        inputs, labels = dataset.batch(chosen[start : start + _BATCH_SIZE])
        module.zero_grad()
        outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
        loss = _loss(outputs if isinstance(outputs, tuple) else (outputs,), labels, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        products = {name: _product(weight) for name, weight in weights.items()}
        for group in groups:
            change = np.zeros(group.channels)
            for member in _readers(group):
                if member.initializer in products:
                    change += _by_unit(products[member.initializer], member)
            totals[group.name] += change**2
    return totals


def _norms(graph: ModelGraph, group: PruneGroup, order: int) -> NDArray[np.float64]:
    """``(channels,)`` norms, averaged over the layers that make the channels."""
    powers = []
    for member in group.members:
        if member.role == "out":
            array = np.abs(graph.initializers[member.initializer].astype(np.float32))
            total = _by_unit(array if order == 1 else array * array, member)
            powers.append(total if order == 1 else np.sqrt(total))
    return np.asarray(np.mean(powers, axis=0, dtype=np.float64))


def _by_unit(array: NDArray[Any], member: GroupMember) -> NDArray[np.float64]:
    """``(channels,)`` sums of the entries that belong to each unit."""
    others = tuple(axis for axis in range(array.ndim) if axis != member.axis)
    entries = array.sum(axis=others, dtype=np.float64)
    result: NDArray[np.float64] = entries[member.indices].sum(axis=1)
    return result


def _readers(group: PruneGroup) -> list[GroupMember]:
    """Members that read the channels."""
    return [member for member in group.members if member.role == "in"]


def _trainable(module: GraphModule, groups: Iterable[PruneGroup]) -> Mapping[str, torch.Tensor]:
    """Weights that read channels, by initializer name; only these need gradients."""
    known = module.named_initializers()
    names = {member.initializer for group in groups for member in _readers(group)} & known.keys()
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
    classes = logits.ndim == 2 and logits.shape[1] > 1
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


def _normalized(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scaled to a mean of one."""
    mean = float(score.mean())
    return score / mean if mean > 0 else score
