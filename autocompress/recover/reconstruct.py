"""Healing in closed form: layer after layer is refitted to give what the uncompressed network gives there.

Pruning takes a layer's inputs away, a skipped block what was added to them. Least squares finds the weights that make
up for it best (He et al. 2017, "Channel pruning for accelerating very deep neural networks", sections 3.1 and 3.2). A
layer reads what the layers before it give *after* they were refitted, so errors are made up for and not handed on;
where its output is added to another branch, the sum is fitted. One pass over a few hundred unlabelled samples, no
training.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.core.errors import CandidateError, Interrupted
from autocompress.core.protocols import Dataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.operator_node import OperatorNode
from autocompress.hardware.host import usable_cores
from autocompress.recover.affine_layer import AffineLayer
from autocompress.recover.batch_norm import FEWEST, clean_batches
from autocompress.recover.features import Kept
from autocompress.recover.fit_points import FitPoint, fit_points
from autocompress.recover.layer_rows import rows_between
from autocompress.recover.least_squares import NormalEquations, Part, best_change
from autocompress.recover.lesson import ROWS, Lesson, Taught, positions, rows_of
from autocompress.recover.untouched import untouched_values

#: A layer whose output is this near already (relative squared error) stays as it is.
NEAR = 1e-7
#: Rows that are looked at at once.
PART = 2048
#: Samples that layers are fitted to where nothing else is said.
REFIT_SAMPLES = 256
#: What all samples may hold of the largest value inside the network.
LARGEST_BYTES = 1 << 28


class Reconstruction:
    """Refits pruned graphs to their uncompressed teacher, without labels.

    Args:
        teacher: the uncompressed graph; it runs once over the samples, when first needed.
        dataset: samples; labels are not used.
        samples: at most this many, spread evenly over the data; fewer where values inside the network are large.
        threads: of torch; default all cores this process may use.
        seed: of the positions that are looked at.
        rows: least and greatest number of these for each layer.
        should_stop: asked before each node.
    """

    def __init__(
        self,
        teacher: ModelGraph,
        dataset: Dataset,
        *,
        samples: int = REFIT_SAMPLES,
        threads: int | None = None,
        seed: int = 0,
        rows: tuple[int, int] = ROWS,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._teacher = teacher
        self._dataset = dataset
        self._samples = samples
        self._threads = threads or usable_cores()
        self._seed = seed
        self._rows = rows
        self._should_stop = should_stop

    @torch.no_grad()
    def refit(self, pruned: ModelGraph, kept: Kept, *, without: Collection[str] = ()) -> ModelGraph:
        """A graph of the same structure with new weights, biases and BatchNormalization.

        What cannot be fitted (weights that several layers share, transposed convolutions, recurrent layers) stays;
        BatchNormalization gets new statistics all the same. A layer stays too where samples that it was not fitted to
        say so, and everything where there is one sample only.

        Args:
            pruned: float32, its BatchNormalization folded or not.
            kept: teacher's value name to axis to the entries that the graph still has.
            without: weights to leave as they are, such as masked ones.

        Raises:
            CandidateError: values inside the network are not finite.
            DataError: there is no data.
            Interrupted: ``should_stop`` said so.
            ModelError: the graph cannot run.
        """
        if len(self._dataset) == 1:
            return pruned
        with self._all_threads():
            walk = _Refit(pruned, self._lesson, kept, without, untouched_values(pruned, self._teacher))

            def before(node: OperatorNode, read: list[list[Any]]) -> None:
                self._ask(node, read)
                walk.before(node, read)

            walk.module.walk(self._batches, before=before, after=walk.after)
        return pruned.with_weights(walk.module)

    def _ask(self, node: OperatorNode, read: list[list[Any]]) -> None:
        if self._should_stop():
            raise Interrupted(f"healing stopped before node {node.name}")

    @contextmanager
    def _all_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @cached_property
    def _batches(self) -> list[tuple[Tensor, ...]]:
        # Shapes in the graph may leave sizes open that the data settle.
        (few,) = itertools.islice(clean_batches(self._teacher, self._dataset, 1, 1), 1)
        widest = 1

        def measure(node: OperatorNode, written: list[Any]) -> None:
            nonlocal widest
            if isinstance(written[0], Tensor):
                widest = max(widest, written[0].nbytes)

        GraphModule(self._teacher).eval().walk([few], after=measure)
        samples = max(8, min(self._samples, LARGEST_BYTES * len(few[0]) // widest))
        return list(clean_batches(self._teacher, self._dataset, samples, samples))

    @cached_property
    def _lesson(self) -> Lesson:
        lesson = Lesson(self._teacher, [len(batch[0]) for batch in self._batches], seed=self._seed, rows=self._rows)
        lesson.module.walk(self._batches, before=self._ask, after=lesson.after)
        return lesson


class _Refit:
    """Watches a graph run and refits each of its layers just before it runs."""

    def __init__(
        self,
        graph: ModelGraph,
        lesson: Lesson,
        kept: Kept,
        without: Collection[str],
        untouched: Collection[str],
    ) -> None:
        self.module = GraphModule(graph, channels_last=True).eval()
        self._lesson = lesson.values
        self._kept = kept
        values = graph.values
        #: What can be replaced, and is read at one place only.
        self._own = {name for name in self.module.named_initializers() if len(values[name].uses()) == 1}
        points = fit_points(graph, without=without)
        self._points = {node: point for node, point in points.items() if self._own >= point.initializers}
        self._untouched = untouched
        self._names = {str(node.name): str(node.outputs[0].name) for node in graph.model.graph}
        self._others: dict[str, list[FitPoint]] = defaultdict(list)
        for point in self._points.values():
            if point.other is not None and point.total in self._lesson:
                self._others[point.other].append(point)
        self._added: dict[str, Tensor] = {}
        self._right: set[str] = set()

    def before(self, node: OperatorNode, read: list[list[Any]]) -> None:
        point = self._points.pop(node.name, None)
        if self._names.get(node.name) in self._untouched and (
            point is None or point.other is None or point.other in self._untouched
        ):
            return
        if point is not None:
            self._fit(point, node, [inputs[0] for inputs in read])
        elif node.op_type == "BatchNormalization":
            self._restate(node, [inputs[0] for inputs in read])

    def after(self, node: OperatorNode, written: list[Any]) -> None:
        for point in self._others.get(self._names.get(node.name, ""), ()):
            total = self._lesson[str(point.total)]
            # A term that is repeated along the others' positions has rows of its own.
            there = [positions(value, point.axis) for value in written]
            if point.node in self._points and there == total.positions:
                self._added[str(point.total)] = rows_of(written, total.places, point.axis)

    def _fit(self, point: FitPoint, node: OperatorNode, values: list[Tensor]) -> None:
        taught, wanted = self._wanted(point)
        if taught is None or wanted is None:
            return
        layer = AffineLayer(self.module, point, node)
        groups, outputs, inputs = layer.weight.shape
        if wanted.shape[1] != groups * outputs or taught.used == 0:
            return
        weight = self.module.initializer(point.weight)

        def part(span: range) -> Part:
            rows = rows_between(node, values, weight, taught.places, span)
            if not bool(rows.sum().isfinite()):
                raise CandidateError("heal", f"values before {node.op_type} of {node.name!r} are not finite")
            given = wanted[span.start : span.stop].unflatten(1, (groups, outputs)).transpose(0, 1)
            return rows, torch.baddbmm(given - layer.bias[:, None], rows, layer.weight.mT, alpha=-1)

        used, judging = _spans(0, taught.used), _spans(taught.used, len(wanted))
        first = part(used[0])
        if not _near(itertools.chain([first], map(part, used[1:] + judging)), wanted):
            intercept = point.bias is not None or point.batch_norm is not None
            equations = NormalEquations(groups, inputs, outputs, intercept=intercept)
            change = best_change(equations, itertools.chain([first], map(part, used[1:])), map(part, judging))
            if change is not None:
                found = layer.weight + change[0]
                layer.replace(found, layer.bias + change[1], equations.output_moments)
        if point.batch_norm is not None:
            self._right.add(point.batch_norm[2])

    def _wanted(self, point: FitPoint) -> tuple[Taught | None, Tensor | None]:
        """The value that a layer is fitted by, and ``(rows, channels)`` of what its own output should be."""
        own = self._lesson.get(point.output)
        added = None if point.total is None else self._added.pop(point.total, None)
        if point.total is not None and added is not None:
            both = self._lesson[point.total]
            total = self._taught(point.total)
            alike = own is None or both.like(own)
            if alike and total is not None and added.shape[1] in (1, total.shape[1]):
                return both, total - added
        return own, self._taught(point.output)

    def _taught(self, name: str) -> Tensor | None:
        """What the teacher gives there, without the channels that are gone; None where that is not known."""
        taught = self._lesson.get(name)
        rows = None if taught is None else taught.rows
        for axis, entries in self._kept.get(name, {}).items():
            if rows is None or taught is None or axis != taught.axis:
                return None
            rows = rows[:, torch.from_numpy(np.ascontiguousarray(entries))]
        return rows

    def _restate(self, node: OperatorNode, values: list[Tensor]) -> None:
        """New running statistics for a BatchNormalization that no fitted layer stands before."""
        mean, variance = node.inputs[3:5]
        if mean in self._right or not self._own >= {mean, variance}:
            return
        # Of all samples at once, as they come out of the layers that are refitted by now.
        channels = torch.cat([value.transpose(0, 1).flatten(1) for value in values], 1)
        if channels.shape[1] < FEWEST:
            return
        found, spread = channels.mean(1), channels.var(1, unbiased=False)
        if not bool((found + spread).isfinite().all()):
            raise CandidateError("heal", f"values before {node.op_type} of {node.name!r} are not finite")
        for name, value in ((mean, found), (variance, spread)):
            self.module.initializer(str(name)).copy_(value)


def _near(parts: Iterable[Part], wanted: Tensor) -> bool:
    """Whether next to nothing is lacking."""
    allowed = NEAR * float(wanted.double().square().sum())
    for _, lacking in parts:
        allowed -= float(lacking.square().sum())
        if not allowed >= 0:
            return False
    return True


def _spans(start: int, stop: int) -> list[range]:
    return [range(first, min(first + PART, stop)) for first in range(start, stop, PART)]
