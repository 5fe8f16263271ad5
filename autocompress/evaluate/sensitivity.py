"""How much each single choice moves the model's outputs: one at a time, on a few dozen samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError, Interrupted
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.protocols import Artifact, Batch, Dataset
from autocompress.core.rank_plan import RankPlan
from autocompress.core.space import NO_ZEROS, WHOLE, Choice
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.core.target import plan_of
from autocompress.evaluate.datasets import subset
from autocompress.evaluate.metrics import kl_divergence

Option = str | float | int


def sensitivities(
    choices: Sequence[Choice],
    *,
    build: Callable[[CompressionPlan], Artifact],
    reference: Artifact,
    dataset: Dataset,
    samples: int = 64,
    batch_size: int = 64,
    seed: int = 0,
    budget_seconds: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, float]]:
    """KL divergence of the outputs from the uncompressed model's, with one choice changed and all else left alone.

    Whether the weights behind what is left out make up for it is up to ``build``.

    Every choice gets its middle option first, then the other options in turn, so that a budget that runs out leaves
    something known of every choice. Choices other than precisions and prune ratios have no sensitivity of their own.

    Args:
        choices: of the search space.
        build: a loaded artifact of a plan; a :class:`CandidateError` leaves its option out.
        reference: the uncompressed model.
        dataset: labels are not used.
        samples: how many samples.
        batch_size: samples an inference.
        seed: of the choice of samples.
        budget_seconds: stop then; None for no limit.
        on_progress: called with options done and in all.
        should_stop: asked between options.

    Returns:
        Choice name to ``str(option)`` to KL in nats (see :func:`~autocompress.evaluate.metrics.kl_divergence`); an
        option that changes nothing has 0. Plain JSON values.
    """
    batches = _batches(subset(dataset, samples, seed), batch_size)
    references = _outputs(reference, batches)
    found: dict[str, dict[str, float]] = {}
    order = list(_coarse_first(choices))
    started = time.monotonic()
    for done, (choice, option) in enumerate(order):
        spent = budget_seconds is not None and time.monotonic() - started > budget_seconds
        if spent or should_stop():
            break
        plan = single_change(choice, option)
        options = found.setdefault(choice.name, {})
        if plan == CompressionPlan():
            options[str(option)] = 0.0
        else:
            try:
                divergence = kl_divergence(_outputs(build(plan), batches), references)
            except CandidateError:
                divergence = math.nan
            except Interrupted:
                break
            if math.isfinite(divergence):
                options[str(option)] = divergence
        on_progress(done + 1, len(order))
    return {name: options for name, options in found.items() if options}


def single_change(choice: Choice, option: Option) -> CompressionPlan:
    """The plan that takes one option of one choice of a layer, group or block and leaves all else uncompressed."""
    if choice.kind == "precision":
        layer = plan_of(str(option))
        return CompressionPlan(layers={} if layer == LayerPlan() else {choice.subject: layer})
    if choice.kind == "rank" and option != WHOLE:
        return CompressionPlan(layers={choice.subject: LayerPlan(rank=RankPlan.from_label(str(option)))})
    if choice.kind == "sparsity" and option != NO_ZEROS:
        return CompressionPlan(layers={choice.subject: LayerPlan(sparsity=SparsityPlan.from_label(str(option)))})
    if choice.kind in ("rank", "sparsity"):
        return CompressionPlan()
    if choice.kind == "ratio":
        return CompressionPlan(prune={choice.subject: float(option)} if float(option) > 0 else {})
    if choice.kind == "skip":
        return CompressionPlan(skip=(choice.subject,) if int(option) else ())
    raise ValueError(f"A {choice.kind} has no sensitivity of its own.")


def single_changes(choices: Sequence[Choice]) -> Iterator[CompressionPlan]:
    """The plan of each option that changes something, in the order in which they are taken."""
    for choice, option in _coarse_first(choices):
        plan = single_change(choice, option)
        if plan != CompressionPlan():
            yield plan


def _coarse_first(choices: Sequence[Choice]) -> Iterator[tuple[Choice, Option]]:
    """Options that change nothing (they cost nothing), the middle option of each choice, then the rest in turn."""
    queues: list[tuple[Choice, list[Option]]] = []
    for choice in choices:
        if choice.kind not in ("precision", "ratio", "skip", "rank", "sparsity"):
            continue
        changing: list[Option] = []
        for option in choice.options:
            if single_change(choice, option) == CompressionPlan():
                yield choice, option
            else:
                changing.append(option)
        middle = len(changing) // 2
        queues.append((choice, changing[middle : middle + 1] + changing[:middle] + changing[middle + 1 :]))
    for turn in range(max((len(options) for _, options in queues), default=0)):
        for choice, options in queues:
            if turn < len(options):
                yield choice, options[turn]


def _batches(dataset: Dataset, batch_size: int) -> list[Batch]:
    n = len(dataset)
    return [dataset.batch(range(i, min(i + batch_size, n)))[0] for i in range(0, n, batch_size)]


def _outputs(artifact: Artifact, batches: Sequence[Batch]) -> list[NDArray[np.float64]]:
    parts = [artifact.run(batch) for batch in batches]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
