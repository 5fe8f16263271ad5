"""Healing in closed form: layer after layer is refitted to give what the uncompressed network gives there.

Pruning takes a layer's inputs away, a skipped block what was added to them. Least squares finds the weights that make
up for it best (He et al. 2017, "Channel pruning for accelerating very deep neural networks", sections 3.1 and 3.2). A
layer reads what the layers before it give *after* they were refitted, so errors are made up for and not handed on;
where its output is added to another branch, the sum is fitted. One pass over a few hundred unlabelled samples, no
training.
"""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.compress.fold import fold_batch_norm
from autocompress.core.errors import CandidateError, Interrupted
from autocompress.core.protocols import Dataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.operator_node import OperatorNode
from autocompress.hardware.host import usable_cores
from autocompress.recover.affine_layer import AffineLayer
from autocompress.recover.batch_norm import clean_batches
from autocompress.recover.features import Kept
from autocompress.recover.fit_points import FitPoint, fit_points
from autocompress.recover.layer_rows import input_rows, output_rows
from autocompress.recover.least_squares import fit

#: Share of the samples that judge how near to the weights that were a layer stays.
HELD_OUT = 0.3
#: A layer whose output is this near already (relative squared error) stays as it is.
NEAR = 1e-7
#: Wider layers stay as they are: their normal equations take longer than training.
MOST_INPUTS = 5000
#: Rows for each input of a layer, and their least and greatest number.
ROWS_AN_INPUT = 16
ROWS = (8192, 16384)
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
        should_stop: asked before each node.
    """

    def __init__(
        self,
        teacher: ModelGraph,
        dataset: Dataset,
        *,
        samples: int = 256,
        threads: int | None = None,
        seed: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._teacher = teacher
        self._dataset = dataset
        self._samples = samples
        self._threads = threads or usable_cores()
        self._seed = seed
        self._should_stop = should_stop

    @torch.no_grad()
    def refit(self, pruned: ModelGraph, kept: Kept, *, without: Collection[str] = ()) -> ModelGraph:
        """A graph of the same structure with new weights, biases and BatchNormalization.

        What cannot be fitted (weights that several layers share, transposed convolutions, recurrent layers) stays;
        BatchNormalization gets new statistics all the same.

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
        with self._all_threads():
            walk = _Refit(pruned, self._lesson, kept, without)

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
            widest = max(widest, written[0].numel() * written[0].element_size())

        GraphModule(self._teacher).eval().walk([few], after=measure)
        samples = max(8, min(self._samples, LARGEST_BYTES * len(few[0]) // widest))
        return list(clean_batches(self._teacher, self._dataset, samples, samples))

    @cached_property
    def _lesson(self) -> _Lesson:
        lesson = _Lesson(self._teacher, seed=self._seed)
        lesson.module.walk(self._batches, before=self._ask, after=lesson.after)
        return lesson


class _Lesson:
    """What the teacher gives at sampled places of every value that some layer is fitted to.

    Attributes:
        rows: value name to ``(rows, channels)``.
        places: value name to the places of each batch.
        axes: value name to its axis of channels.
        positions: value name to its sizes but the channels, for each batch.
        held_out: value name to which rows are of the last samples.
        module: the teacher.
    """

    def __init__(self, teacher: ModelGraph, *, seed: int) -> None:
        self.rows: dict[str, Tensor] = {}
        self.places: dict[str, list[Tensor]] = {}
        self.axes: dict[str, int] = {}
        self.positions: dict[str, list[tuple[int, ...]]] = {}
        self.held_out: dict[str, Tensor] = {}
        self._seed = seed
        # Folded, the teacher computes the same values with fewer operators.
        folded = fold_batch_norm(teacher)
        self.module = GraphModule(folded).eval()
        self._names = {str(node.name): str(node.outputs[0].name) for node in folded.model.graph}
        self._needs: dict[str, tuple[int, int]] = {}
        for point in fit_points(teacher).values():
            rows = min(max(ROWS[0], ROWS_AN_INPUT * point.inputs), ROWS[1])
            for name in (point.output, point.total):
                if name is not None and point.inputs <= MOST_INPUTS:
                    self._needs[name] = (max(rows, self._needs.get(name, (0, 0))[0]), point.axis)

    def alike(self, first: str, second: str) -> bool:
        """Whether two values have the same shape and the same axis of channels."""
        return (
            first in self.rows
            and self.axes[first] == self.axes[second]
            and self.positions[first] == self.positions[second]
            and self.rows[first].shape[1] == self.rows[second].shape[1]
        )

    def after(self, node: OperatorNode, written: list[Any]) -> None:
        name = self._names.get(node.name, "")
        if name not in self._needs:
            return
        rows, axis = self._needs[name]
        # A value's places do not depend on what else there is.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed}:{name}".encode()))
        share = -(-rows // len(written))
        sizes = [value.numel() // value.shape[axis] for value in written]
        self.places[name] = [torch.randperm(size, generator=generator)[:share] for size in sizes]
        # The batch comes first nearly always; where it does not, the split is by position.
        self.held_out[name] = torch.cat(
            [
                index + places / size >= (1 - HELD_OUT) * len(written)
                for index, (places, size) in enumerate(zip(self.places[name], sizes, strict=True))
            ]
        )
        self.axes[name] = axis % written[0].ndim
        self.positions[name] = [_positions(value, axis) for value in written]
        self.rows[name] = _rows(written, self.places[name], axis)


class _Refit:
    """Watches a graph run and refits each of its layers just before it runs."""

    def __init__(self, graph: ModelGraph, lesson: _Lesson, kept: Kept, without: Collection[str]) -> None:
        self.module = GraphModule(graph).eval()
        self._lesson = lesson
        self._kept = kept
        values = graph.values
        #: What can be replaced, and is read at one place only.
        self._own = {name for name in self.module.named_initializers() if len(values[name].uses()) == 1}
        points = fit_points(graph, without=without)
        self._points = {node: point for node, point in points.items() if self._own >= point.initializers}
        self._names = {str(node.name): str(node.outputs[0].name) for node in graph.model.graph}
        self._others: dict[str, list[FitPoint]] = defaultdict(list)
        for point in self._points.values():
            if point.other is not None and point.total in lesson.rows:
                self._others[point.other].append(point)
        self._added: dict[str, Tensor] = {}
        self._right: set[str] = set()

    def before(self, node: OperatorNode, read: list[list[Any]]) -> None:
        point = self._points.pop(node.name, None)
        if point is not None:
            self._fit(point, node, read)
        elif node.op_type == "BatchNormalization":
            self._restate(node, [inputs[0] for inputs in read])

    def after(self, node: OperatorNode, written: list[Any]) -> None:
        for point in self._others.get(self._names.get(node.name, ""), ()):
            total = str(point.total)
            # A term that is repeated along the others' positions has rows of its own.
            there = [_positions(value, point.axis) for value in written]
            if point.node in self._points and there == self._lesson.positions[total]:
                self._added[total] = _rows(written, self._lesson.places[total], point.axis)

    def _fit(self, point: FitPoint, node: OperatorNode, read: list[list[Any]]) -> None:
        name, wanted = self._wanted(point)
        if wanted is None:
            return
        weight = read[0][1]
        transposed = node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get("transB", 0))
        matrix = weight.T if transposed else weight
        places = self._lesson.places[name]
        rows = torch.cat([input_rows(node, x[0], weight, some) for x, some in zip(read, places, strict=True)])
        if wanted.shape[1] != len(matrix) or len(rows) != len(wanted):
            return
        if not bool(rows.isfinite().all()):
            raise CandidateError("heal", f"values before {node.op_type} of {node.name!r} are not finite")
        groups = rows.shape[1]
        layer = AffineLayer(self.module, point, matrix.reshape(groups, -1, point.inputs))
        wanted = wanted.reshape(len(wanted), groups, -1)
        error = torch.einsum("rgi,goi->rgo", rows, layer.weight) + layer.bias - wanted
        if float(error.double().square().sum()) > NEAR * float(wanted.double().square().sum()):
            intercept = point.bias is not None or point.batch_norm is not None
            found, bias = fit(rows, wanted, layer.weight, self._lesson.held_out[name], intercept=intercept)
            if not bool(found.isfinite().all()):
                return
            layer.replace(found, bias, rows, lambda w: w.reshape(matrix.shape).T if transposed else w)
        if point.batch_norm is not None:
            self._right.add(point.batch_norm[2])

    def _wanted(self, point: FitPoint) -> tuple[str, Tensor | None]:
        """The value that a layer is fitted by, and ``(rows, channels)`` of what its own output should be."""
        added = None if point.total is None else self._added.pop(point.total, None)
        if point.total is not None and added is not None and self._lesson.alike(point.output, point.total):
            total = self._taught(point.total)
            if total is not None and added.shape[1] in (1, total.shape[1]):
                return point.total, total - added
        return point.output, self._taught(point.output)

    def _taught(self, name: str) -> Tensor | None:
        """What the teacher gives there, without the channels that are gone; None where that is not known."""
        rows = self._lesson.rows.get(name)
        for axis, entries in self._kept.get(name, {}).items():
            if rows is None or axis != self._lesson.axes[name]:
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
        if channels.shape[1] == 1:
            return
        found, spread = channels.mean(1), channels.var(1, unbiased=False)
        if not bool((found + spread).isfinite().all()):
            raise CandidateError("heal", f"values before {node.op_type} of {node.name!r} are not finite")
        for name, value in ((mean, found), (variance, spread)):
            self.module.initializer(str(name)).copy_(value)


def _positions(value: Tensor, axis: int) -> tuple[int, ...]:
    """Sizes of a value but that of its channels; none where it has no such axis."""
    return tuple(value.movedim(axis, -1).shape[:-1]) if -value.ndim <= axis < value.ndim else ()


def _rows(values: Sequence[Tensor], places: Sequence[Tensor], axis: int) -> Tensor:
    return torch.cat([output_rows(value, some, axis) for value, some in zip(values, places, strict=True)])
