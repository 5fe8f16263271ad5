"""Healing in rising budgets, remembered, so that plans that differ in bits only are trained once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from autocompress.compress.sparsify import sparsity_masks
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.distill import Distiller, HealState
from autocompress.recover.features import Kept
from autocompress.recover.reconstruct import REFIT_SAMPLES, Reconstruction

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    """A structure's healing so far: graphs by steps done, and the trainer's state after the furthest unfinished one."""

    graphs: dict[int, ModelGraph]
    state: HealState | None = None


class StagedHealing:
    """Heals pruned graphs up to a share of their plan's steps and continues where an earlier call stopped.

    First layers are refitted in closed form (:mod:`autocompress.recover.reconstruct`), unless the plan says otherwise;
    training begins there.

    Args:
        teacher: the uncompressed graph.
        dataset: training samples; labels are not used.
        seed: of the sample order.
        refit_samples: that layers are refitted to.
        threads: of torch while healing; default all cores this process may use.
        capacity: structures to remember; the least recently used is forgotten.
        should_stop: asked at each step.
        kept: which entries of each of the teacher's values a plan keeps; without it less can be matched inside.
    """

    def __init__(
        self,
        teacher: ModelGraph,
        dataset: Dataset,
        *,
        seed: int = 0,
        refit_samples: int = REFIT_SAMPLES,
        threads: int | None = None,
        capacity: int = 24,
        should_stop: Callable[[], bool] = lambda: False,
        kept: Callable[[CompressionPlan], Kept] | None = None,
    ) -> None:
        self._distiller = Distiller(teacher, dataset, seed=seed, threads=threads)
        self._reconstruction = Reconstruction(
            teacher, dataset, samples=refit_samples, seed=seed, threads=threads, should_stop=should_stop
        )
        self._dataset = dataset
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._refitted: OrderedDict[str, ModelGraph] = OrderedDict()
        self._should_stop = should_stop
        self._kept = kept

    def heal(self, pruned: ModelGraph, plan: CompressionPlan, share: float = 1.0) -> ModelGraph:
        """Heal up to ``share`` of the plan's steps.

        Args:
            pruned: the graph as :func:`~autocompress.compress.prune.prune` left it.
            plan: its plan; ``distillation`` says how.
            share: in ``(0, 1]``.

        Returns:
            A graph of the same structure with new weights.
        """
        healing = plan.distillation or DistillationPlan()
        entry = _recent(self._entries, plan.structure_digest, lambda: _Entry(graphs={}), self._capacity)
        until = math.ceil(healing.steps * share)
        if until in entry.graphs:
            return entry.graphs[until]
        kept = {} if self._kept is None else self._kept(plan)
        masks = sparsity_masks(pruned, plan)
        start = pruned
        if healing.reconstruct:
            # However long it is trained afterwards.
            structure = plan.replace(distillation=None).structure_digest
            start = _recent(
                self._refitted,
                structure,
                lambda: self._reconstruction.refit(pruned, kept, without=masks),
                self._capacity,
            )
        elif until == 0:
            start = reestimate_batch_norm(pruned, self._dataset)
        if until == 0:
            entry.graphs[0] = start
            return start
        # Weights alone are not enough to go on from: the state belongs to one of the remembered graphs only.
        done = entry.state.step if entry.state is not None and entry.state.step < until else 0
        result = self._distiller.heal(
            entry.graphs[done] if done else start,
            healing,
            steps=until - done,
            start_step=done,
            state=entry.state if done else None,
            should_stop=self._should_stop,
            kept=kept,
            masks=masks,
        )
        entry.graphs[until] = result.graph
        if until == healing.steps:
            entry.state = None
        elif healing.steps not in entry.graphs and (entry.state is None or entry.state.step < until):
            entry.state = result.state
        return result.graph


def _recent(memory: OrderedDict[str, T], key: str, make: Callable[[], T], capacity: int) -> T:
    """What is remembered under a key, or what is made now; the least recently used is forgotten."""
    if key not in memory:
        memory[key] = make()
    memory.move_to_end(key)
    while len(memory) > capacity:
        memory.popitem(last=False)
    return memory[key]
