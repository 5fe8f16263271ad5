"""What the uncompressed network gives at sampled places of every value that some layer is fitted to."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autocompress.compress.fold import fold_batch_norm
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.operator_node import OperatorNode
from autocompress.recover.fit_points import FitPoint, fit_points
from autocompress.recover.layer_rows import output_rows

#: Share of the samples that judge how near to the weights that were a layer stays.
HELD_OUT = 0.3
#: Wider layers stay as they are: their normal equations take longer than training.
MOST_INPUTS = 5000
#: Rows for each input of a layer, and their least and greatest number.
ROWS_AN_INPUT = 16
ROWS = (8192, 16384)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """A value at sampled places.

    Args:
        rows: ``(n, channels)``.
        places: rising places of each batch, ``n`` in all.
        used: how many rows come before those of the samples that are held out.
        axis: of the channels.
        positions: sizes but the channels, for each batch.
    """

    rows: Tensor
    places: list[Tensor]
    used: int
    axis: int
    positions: list[tuple[int, ...]]

    def like(self, other: Taught) -> bool:
        """Whether both have the same shape and the same axis of channels."""
        mine, its = ((value.axis, value.positions, value.rows.shape[1]) for value in (self, other))
        return mine == its


class Lesson:
    """Watches the teacher run and keeps what layers are fitted to.

    Args:
        teacher: the uncompressed graph.
        samples: of each batch that it will run over.
        seed: of the places.
        rows: least and greatest number for each layer.

    Attributes:
        values: name to what is kept of it.
        module: what to run.
    """

    def __init__(self, teacher: ModelGraph, samples: Sequence[int], *, seed: int, rows: tuple[int, int] = ROWS) -> None:
        self.values: dict[str, Taught] = {}
        self._samples = samples
        self._seed = seed
        # Folded, the teacher computes the same values with fewer operators.
        folded = fold_batch_norm(teacher)
        self.module = GraphModule(folded, channels_last=True).eval()
        self._names = {str(node.name): str(node.outputs[0].name) for node in folded.model.graph}
        self._needs: dict[str, tuple[int, int]] = {}
        order = {str(value.name): at for at, node in enumerate(teacher.model.graph) for value in node.outputs}
        for point in fit_points(teacher).values():
            wanted = min(max(rows[0], ROWS_AN_INPUT * point.inputs), rows[1])
            names = [point.output] if point.total is None else [point.output, point.total]
            if _is_fitted_by_its_sum(teacher, point, order):
                del names[0]
            for name in names if point.inputs <= MOST_INPUTS else ():
                self._needs[name] = (max(wanted, self._needs.get(name, (0, 0))[0]), point.axis)

    def after(self, node: OperatorNode, written: list[Any]) -> None:
        """Keep what a node of :attr:`module` wrote for each batch, if a layer is fitted to it."""
        name = self._names.get(node.name, "")
        if name not in self._needs:
            return
        rows, axis = self._needs[name]
        # A value's places do not depend on what else there is.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed}:{name}".encode()))
        share = -(-rows // len(written))
        sizes = [value.numel() // value.shape[axis] for value in written]
        places = [torch.randperm(size, generator=generator)[:share].sort().values for size in sizes]
        self.values[name] = Taught(
            rows=rows_of(written, places, axis),
            places=places,
            used=_used(places, sizes, self._samples),
            axis=axis % written[0].ndim,
            positions=[positions(value, axis) for value in written],
        )


def _is_fitted_by_its_sum(graph: ModelGraph, point: FitPoint, order: Mapping[str, int]) -> bool:
    """Whether it is known that what is added to a layer's output comes before it and has its shape."""
    if point.total is None or point.other is None or order.get(point.other, len(order)) > order[point.output]:
        return False
    shapes = {graph.value_shape(name) for name in (point.output, point.other, point.total)}
    shape = shapes.pop()
    return not shapes and shape is not None and None not in shape[1:]


def positions(value: Tensor, axis: int) -> tuple[int, ...]:
    """Sizes of a value but that of its channels; none where it has no such axis."""
    return tuple(value.movedim(axis, -1).shape[:-1]) if -value.ndim <= axis < value.ndim else ()


def rows_of(values: Sequence[Tensor], places: Sequence[Tensor], axis: int) -> Tensor:
    """``(n, channels)`` of several batches at places of each."""
    return torch.cat([output_rows(value, some, axis) for value, some in zip(values, places, strict=True)])


def _used(places: Sequence[Tensor], sizes: Sequence[int], samples: Sequence[int]) -> int:
    """How many places are not of the last samples; all of them where there is one sample only.

    The batch comes first nearly always; where it does not, the split is by position.
    """
    total = sum(samples)
    left = min(round((1 - HELD_OUT) * total), total - 1) or total
    used = 0
    for some, size, count in zip(places, sizes, samples, strict=True):
        used += int((some * count < left * size).sum())
        left = max(0, left - count)
    return used
