"""Healing in rising budgets, remembered, so that plans that differ in bits only are trained once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from autocompress.compress.sparsify import sparsity_masks
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.host import memory_bytes
from autocompress.recover.batch_norm import fixed_batch, reestimate_batch_norm
from autocompress.recover.distill import Distiller, HealState
from autocompress.recover.features import Kept
from autocompress.recover.lesson import ROWS
from autocompress.recover.reconstruct import REFIT_SAMPLES, Reconstruction
from autocompress.recover.schedule import stable_until

T = TypeVar("T")
#: Share of the memory that trained weights may be remembered in.
MEMORY_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class _Stop:
    """Where training may go on: weights alone are not enough for that."""

    graph: ModelGraph
    state: HealState


@dataclass(slots=True)
class _Entry:
    """A structure's healing so far.

    Args:
        graphs: by the steps of the whole run and those that were taken.
        stable: the furthest stop at which the rate had not begun to fall: runs of other lengths go on from there too.
        late: the furthest unfinished stop behind that, by the steps of the whole run.
    """

    graphs: dict[tuple[int, int], ModelGraph] = field(default_factory=dict)
    stable: _Stop | None = None
    late: dict[int, _Stop] = field(default_factory=dict)

    @property
    def stops(self) -> list[_Stop]:
        """All there are."""
        return [*self.late.values(), *([] if self.stable is None else [self.stable])]

    def partial(self, steps: int, until: int) -> ModelGraph | None:
        """What a run of another length was trained to on the way to ``until`` steps, or a little further."""
        begun = any(length == steps for length, _ in self.graphs)
        if begun or until == steps or self.stable is None:
            return None
        return self.stable.graph if until <= self.stable.state.step <= stable_until(steps) else None


class StagedHealing:
    """Heals pruned graphs up to a share of their plan's steps and continues where an earlier call stopped.

    A plan of more steps goes on from one of fewer, where the rate of that had not begun to fall; in the end the weights
    are those of a run of its own. On the way the first look at it may see a few steps more than its share.

    First layers are refitted in closed form (:mod:`autocompress.recover.reconstruct`), unless the plan says otherwise;
    training begins there.

    Args:
        teacher: the uncompressed graph.
        dataset: training samples; labels are not used.
        seed: of the sample order.
        refit_samples: that layers are refitted to.
        refit_rows: least and greatest number of positions in them that are looked at for each layer.
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
        refit_rows: tuple[int, int] = ROWS,
        threads: int | None = None,
        capacity: int = 24,
        should_stop: Callable[[], bool] = lambda: False,
        kept: Callable[[CompressionPlan], Kept] | None = None,
    ) -> None:
        self._distiller = Distiller(teacher, dataset, seed=seed, threads=threads)
        self._reconstruction = Reconstruction(
            teacher,
            dataset,
            samples=refit_samples,
            seed=seed,
            rows=refit_rows,
            threads=threads,
            should_stop=should_stop,
        )
        self._dataset = dataset
        self._capacity = capacity
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._single = fixed_batch(teacher) == 1
        self._starts: OrderedDict[str, ModelGraph] = OrderedDict()
        # No bound where the machine's memory is not known.
        self._most_bytes = MEMORY_SHARE * memory_bytes() or math.inf
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
        until = math.ceil(healing.steps * share)
        if until == 0:
            start = self._untrained(pruned, plan, healing)
            self._forget()
            return start
        alike = plan.replace(distillation=replace(healing, steps=0)).structure_digest
        entry = _recent(self._entries, alike, _Entry, self._capacity)
        further = entry.partial(healing.steps, until)
        if further is not None:
            entry.graphs[healing.steps, until] = further
        if (healing.steps, until) not in entry.graphs:
            start = self._untrained(pruned, plan, healing) if healing.reconstruct else pruned
            entry.graphs[healing.steps, until] = self._train(start, plan, healing, until, entry)
            self._forget()
        return entry.graphs[healing.steps, until]

    def _untrained(self, pruned: ModelGraph, plan: CompressionPlan, healing: DistillationPlan) -> ModelGraph:
        """Refitted, or with new statistics only; the same however long it is trained afterwards."""

        def make() -> ModelGraph:
            if not healing.reconstruct:
                return reestimate_batch_norm(pruned, self._dataset)
            return self._reconstruction.refit(pruned, self._kept_of(plan), without=sparsity_masks(pruned, plan))

        alike = plan.replace(distillation=DistillationPlan(reconstruct=healing.reconstruct))
        return _recent(self._starts, alike.structure_digest, make, self._capacity)

    def _kept_of(self, plan: CompressionPlan) -> Kept:
        return {} if self._kept is None else self._kept(plan)

    def _train(
        self,
        start: ModelGraph,
        plan: CompressionPlan,
        healing: DistillationPlan,
        until: int,
        entry: _Entry,
    ) -> ModelGraph:
        """From the furthest stop that leads to ``until`` steps, or from the start."""
        kept, masks = self._kept_of(plan), sparsity_masks(start, plan)
        if self._single or healing.batch_size == 1:
            # One sample is normalized by running statistics, which every stop takes anew.
            return self._distiller.heal(
                start, healing, steps=until, should_stop=self._should_stop, kept=kept, masks=masks
            ).graph
        stable = min(until, stable_until(healing.steps))
        stop = entry.late.get(healing.steps)
        if stop is None or stop.state.step > until:
            stop = entry.stable if entry.stable is not None and entry.stable.state.step <= stable else None
        done = 0 if stop is None else stop.state.step
        for goal in sorted({stable, until}):
            if goal > done:
                result = self._distiller.heal(
                    start if stop is None else stop.graph,
                    healing,
                    steps=goal - done,
                    start_step=done,
                    state=None if stop is None else stop.state,
                    should_stop=self._should_stop,
                    kept=kept,
                    masks=masks,
                )
                done, stop = goal, _Stop(result.graph, result.state)
                self._note(stop, healing.steps, entry)
        assert stop is not None
        return stop.graph

    def _forget(self) -> None:
        """Forget what was made longest ago while all of it is too large."""
        for memory in (self._entries, self._starts):
            while len(memory) > 1 and self._nbytes() > self._most_bytes:
                memory.popitem(last=False)

    def _nbytes(self) -> int:
        """Of all weights, and of the optimizer's memory of each stop: as much again."""
        stops = [stop for entry in self._entries.values() for stop in entry.stops]
        graphs = [graph for entry in self._entries.values() for graph in entry.graphs.values()]
        graphs += [*self._starts.values(), *(stop.graph for stop in stops)]
        weights = {id(graph): _nbytes(graph) for graph in graphs}
        return sum(weights.values()) + sum(weights[id(stop.graph)] for stop in stops)

    @staticmethod
    def _note(stop: _Stop, steps: int, entry: _Entry) -> None:
        """Remember a stop of a run of ``steps`` if it is the furthest of its kind."""
        done = stop.state.step
        if done <= stable_until(steps):
            if entry.stable is None or entry.stable.state.step < done:
                entry.stable = stop
        elif done == steps:
            entry.late.pop(steps, None)
        elif steps not in entry.late or entry.late[steps].state.step < done:
            entry.late[steps] = stop


def _nbytes(graph: ModelGraph) -> int:
    return sum(array.nbytes for array in graph.initializers.values())


def _recent(memory: OrderedDict[str, T], key: str, make: Callable[[], T], capacity: int) -> T:
    """What is remembered under a key, or what is made now; the least recently used is forgotten."""
    if key not in memory:
        memory[key] = make()
    memory.move_to_end(key)
    while len(memory) > capacity:
        memory.popitem(last=False)
    return memory[key]
