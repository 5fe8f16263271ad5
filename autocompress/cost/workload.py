"""What a network asks of a device: work by class of operator, values moved, kernels started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.cost.structure import Operation, Structure
from autocompress.graph.model_graph import ModelGraph

#: Entries of a workload vector; work in 10^9 operations (2 a multiply-accumulate), values in 10^6 elements.
#: Elements and not bytes: a fit belongs to one precision, so its coefficients hold the width.
#: ``activations`` are moved by operations with arithmetic, ``elementwise`` by all others; ``operations`` counts those
#: with arithmetic.
FEATURES = (
    "dense_3x3", "dense", "grouped", "pointwise", "depthwise", "gemm",
    "weights", "activations", "elementwise", "operations",
)  # fmt: skip
_KINDS = 6
_WORK = {name: index for index, name in enumerate(FEATURES[:_KINDS])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one operation asks: ``kind`` is one of the first six :data:`FEATURES`."""

    kind: str
    giga_operations: float
    weights: float
    activations: float

    def vector(self) -> NDArray[np.float64]:
        """``(len(FEATURES),)``."""
        found = np.zeros(len(FEATURES))
        found[_WORK[self.kind]] = self.giga_operations
        found[_KINDS] = self.weights * 1e-6
        found[_KINDS + (1 if self.giga_operations else 2)] = self.activations * 1e-6
        # Runtimes fuse most others into these.
        found[-1] = 1.0 if self.giga_operations else 0.0
        return found


def grouped_nodes(graph: ModelGraph) -> frozenset[str]:
    """Names of the nodes that convolve in groups."""
    return frozenset(str(n.name) for n in graph.model.graph if n.attributes.get_int("group", 1) > 1)


def work_kind(op: Operation, grouped: frozenset[str]) -> str:
    """Class of an operation's arithmetic; 3x3 convolutions apart, as runtimes have fast transforms for them.

    Args:
        op: the operation.
        grouped: as :func:`grouped_nodes` tells.
    """
    if op.kind != "depthwise" and op.node in grouped:
        return "grouped"
    if op.kind == "dense" and op.layer is not None and op.layer.weight_shape[2:] == (3, 3):
        return "dense_3x3"
    return op.kind


def workload(graph: ModelGraph) -> Mapping[str, float]:
    """Workload vector of a graph as it is, by name, for one sample."""
    structure = Structure(graph)
    total, grouped = np.zeros(len(FEATURES)), grouped_nodes(graph)
    for op in structure.operations:
        moved = sum(float(structure.elements[value]) for value in (*op.reads, op.writes))
        demand = Demand(
            kind=work_kind(op, grouped), giga_operations=op.operations * 1e-9, weights=op.weights, activations=moved
        )
        total += demand.vector()
    return dict(zip(FEATURES, total.tolist(), strict=True))
