"""Healing in rising budgets, remembered, so that plans that differ in bits only are trained once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from autocompress.compress.sparsify import sparsity_masks
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.distill import Distiller, HealState
from autocompress.recover.features import Kept
from autocompress.recover.moments import Moments, match_moments, output_moments


@dataclass(slots=True)
class _Entry:
    """A structure's healing so far: graphs by steps done, and the trainer's state after the furthest unfinished one."""

    graphs: dict[int, ModelGraph]
    state: HealState | None = None


class StagedHealing:
    """Heals pruned graphs up to a share of their plan's steps and continues where an earlier call stopped.

    Without training, layers get their channels' means and variances back, and BatchNormalization new statistics (see
    :mod:`autocompress.recover.moments`). Training begins there too, where no BatchNormalization sees to it.

    Args:
        teacher: the uncompressed graph.
        dataset: training samples; labels are not used.
        seed: of the sample order.
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
        threads: int | None = None,
        capacity: int = 24,
        should_stop: Callable[[], bool] = lambda: False,
        kept: Callable[[CompressionPlan], Kept] | None = None,
    ) -> None:
        self._teacher = teacher
        self._distiller = Distiller(teacher, dataset, seed=seed, threads=threads)
        self._dataset = dataset
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._should_stop = should_stop
        self._kept = kept

    def heal(self, pruned: ModelGraph, plan: CompressionPlan, share: float = 1.0) -> ModelGraph:
        """Heal up to ``share`` of the plan's steps; 0 steps correct channels and BatchNormalization only.

        Args:
            pruned: the graph as :func:`~autocompress.compress.prune.prune` left it.
            plan: its plan; ``distillation`` says how.
            share: in ``(0, 1]``.

        Returns:
            A graph of the same structure with new weights.
        """
        healing = plan.distillation or DistillationPlan()
        entry = self._entries.setdefault(plan.structure_digest, _Entry(graphs={}))
        self._entries.move_to_end(plan.structure_digest)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        until = math.ceil(healing.steps * share)
        if until in entry.graphs:
            return entry.graphs[until]
        kept = {} if self._kept is None else self._kept(plan)
        start = pruned
        if until == 0 or not _normalizes(pruned):
            if 0 not in entry.graphs:
                entry.graphs[0] = match_moments(pruned, self._moments, self._dataset, kept)
            start = entry.graphs[0]
        if until == 0:
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
            masks=sparsity_masks(pruned, plan),
        )
        entry.graphs[until] = result.graph
        if until == healing.steps:
            entry.state = None
        elif healing.steps not in entry.graphs and (entry.state is None or entry.state.step < until):
            entry.state = result.state
        return result.graph

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        return output_moments(self._teacher, self._dataset)


def _normalizes(graph: ModelGraph) -> bool:
    return any(node.op_type == "BatchNormalization" for node in graph.model.graph)
