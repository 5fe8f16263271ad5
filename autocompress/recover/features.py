"""Where inside a network a student is compared with its teacher, and what it is compared with there.

A pruned network is its teacher with parts left out, so its values inside have teacher values to match, channel by
channel. Matching them (Romero et al. 2015, FitNets, section 2.2, with the identity in place of a regressor) heals in a
fraction of the steps that matching outputs alone takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.losses import relative_squared_error

#: Points are thinned out to this many, the last always among them.
MOST_POINTS = 12
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Sigmoid", "Elu", "Gelu", "Mish"})
_JOINS = frozenset({"Add", "Concat", "Sum"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})

Kept = Mapping[str, Mapping[int, NDArray[np.intp]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One value of the teacher and its counterpart.

    Args:
        teacher: name in the teacher's graph.
        student: name in the student's graph.
        kept: axis to the entries that the student still has.
    """

    teacher: str
    student: str
    kept: Mapping[int, Tensor]


def feature_points(graph: ModelGraph) -> tuple[str, ...]:
    """Values worth matching, in topological order: where branches meet, or what is pooled where none do."""
    found = list(_joined(graph)) or list(_pooled(graph))
    if len(found) > MOST_POINTS:
        places = np.linspace(0, len(found) - 1, MOST_POINTS).round().astype(int)
        found = [found[place] for place in places]
    return tuple(found)


def match_features(teacher: ModelGraph, student: ModelGraph, points: Sequence[str], kept: Kept) -> list[Feature]:
    """The points that the student has a counterpart of.

    Args:
        teacher: the uncompressed graph.
        student: pruned from it.
        points: names in the teacher.
        kept: value name to axis to sorted kept entries, as in the teacher.
    """
    # What a skipped block wrote is what it read.
    passed_on = {_output_of(teacher, block.join): block.kept for block in teacher.blocks()}
    found = []
    for point in points:
        name = point
        while name not in student.values and name in passed_on:
            name = passed_on[name]
        axes = kept.get(point, {})
        wanted = _cut(teacher.value_shape(point), axes)
        if name in student.values and wanted is not None and student.value_shape(name) == wanted:
            indices = {axis: torch.from_numpy(np.ascontiguousarray(entries)) for axis, entries in axes.items()}
            found.append(Feature(teacher=point, student=name, kept=indices))
    return found


def with_outputs(graph: ModelGraph, names: Sequence[str]) -> ModelGraph:
    """A copy of a graph that gives out the named values too, behind its own outputs."""
    copy = graph.clone()
    values = copy.values
    for name in names:
        copy.model.graph.outputs.append(values[name])
    return ModelGraph(copy.model)


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], features: Sequence[Feature]) -> Tensor:
    """Mean over the features of the relative squared error; 0 where there is none.

    Args:
        student: values of the student, one a feature.
        teacher: whole values of the teacher, one a feature.
        features: in the same order.
    """
    total = torch.zeros(())
    for mine, whole, feature in zip(student, teacher, features, strict=True):
        wanted = whole
        for axis, indices in feature.kept.items():
            wanted = _selected(wanted, axis, indices)
        total = total + relative_squared_error(mine.float(), wanted.float())
    return total / max(1, len(features))


def _selected(values: Tensor, axis: int, indices: Tensor) -> Tensor:
    """The entries of one axis; images stay channels last."""
    if axis == 1 and values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.movedim(1, -1).index_select(-1, indices).movedim(-1, 1)
    return values.index_select(axis, indices)


def _joined(graph: ModelGraph) -> Iterator[str]:
    for node in graph.model.graph:
        if node.op_type not in _JOINS or any(v is None or v.is_initializer() for v in node.inputs):
            continue
        value = _activated(node.outputs[0])
        if _is_feature(graph, value):
            yield str(value.name)


def _pooled(graph: ModelGraph) -> Iterator[str]:
    for node in graph.model.graph:
        value = node.inputs[0] if node.inputs else None
        strided = node.op_type == "Conv" and max(node.attributes.get_ints("strides", (1,))) > 1
        shrinks = node.op_type in _POOLS or strided
        if shrinks and value is not None and value.producer() is not None and _is_feature(graph, value):
            yield str(value.name)


def _activated(value: ir.Value) -> ir.Value:
    """The value behind the activation that is all that reads it, else the value itself."""
    uses = value.uses()
    if len(uses) == 1:
        reader = next(iter(uses)).node
        if reader.op_type in _ACTIVATIONS:
            return reader.outputs[0]
    return value


def _is_feature(graph: ModelGraph, value: ir.Value) -> bool:
    """Whether a value is a float array with the batch first, and none of the graph's outputs."""
    shape = graph.value_shape(str(value.name))
    if value.dtype != ir.DataType.FLOAT or shape is None or len(shape) < 2 or value.is_graph_output():
        return False
    return (shape[0] is None) == graph.batch_axis_dynamic and all(size is not None for size in shape[1:])


def _output_of(graph: ModelGraph, node_name: str) -> str:
    return next((str(n.outputs[0].name) for n in graph.model.graph if n.name == node_name), "")


def _cut(shape: tuple[int | None, ...] | None, axes: Mapping[int, NDArray[Any]]) -> tuple[int | None, ...] | None:
    if shape is None:
        return None
    return tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(shape))
