"""Which operators compute in 16 bits beside the layers that must, so that the fewest Casts are needed."""

from __future__ import annotations

from collections.abc import Collection, Hashable

import numpy as np
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

_INFINITE = np.iinfo(np.int32).max


def island(graph: ir.Graph, layers: Collection[ir.Node], free: Collection[ir.Node]) -> set[ir.Node]:
    """The operators of 16 bits with which the graph has the fewest Casts.

    A value needs one Cast where its writer and any of its readers differ, however many do. That is a minimum cut
    (Boykov et al. 2001, section 3): with 16 bits on the source's side, an edge of capacity one stands for each
    possible Cast, between the writer and a node that all readers are tied to. Of several choices with equally few the
    one with later Casts is taken, which mostly have less to convert.

    Args:
        graph: its inputs and outputs are float32, and so is what subgraphs read.
        layers: compute in 16 bits.
        free: may compute in either; all others stay in float32.

    Returns:
        ``layers`` and some of ``free``.
    """
    order = {node: index for index, node in enumerate(graph)}
    must, may = set(layers), set(free)
    values = [*graph.inputs, *(value for node in order for value in node.outputs)]
    # One Cast more must outweigh every difference of places; past int32, only their number counts.
    whole = (len(order) + 1) * (len(values) + 1)
    whole = whole if whole * 2 * len(values) < _INFINITE else 1
    edges = _Edges()
    for node in order:
        if node in must:
            edges.add("source", node, _INFINITE)
        elif node not in may:
            edges.add(node, "sink", _INFINITE)
    for value in values:
        readers = {use.node for use in value.uses()}
        if value.dtype != ir.DataType.FLOAT or not (readers or value.is_graph_output()):
            continue
        writer = value.producer()
        start: Hashable = writer if writer is not None else "sink"
        later = order[writer] + 1 if writer is not None else 0
        price = whole - later if whole > 1 else 1
        for reader in readers:
            known: Hashable = reader if reader in order else "sink"
            edges.add(known, (value, "down"), _INFINITE)
            edges.add((value, "up"), known, _INFINITE)
        if value.is_graph_output():
            edges.add((value, "up"), "sink", _INFINITE)
        edges.add((value, "down"), start, price)
        edges.add(start, (value, "up"), price)
    return {node for node in edges.source_side() if isinstance(node, ir.Node)}


class _Edges:
    """A flow network under construction."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {"source": 0, "sink": 1}
        self._capacity: dict[tuple[int, int], int] = {}

    def add(self, start: Hashable, end: Hashable, capacity: int) -> None:
        pair = (self._place(start), self._place(end))
        if pair[0] != pair[1]:
            self._capacity[pair] = max(capacity, self._capacity.get(pair, 0))

    def source_side(self) -> list[Hashable]:
        """What the minimum cut leaves with the source; the fewest where several cuts are minimal."""
        count = len(self._places)
        pairs = np.array(list(self._capacity), np.int32).reshape(-1, 2)
        sizes = np.fromiter(self._capacity.values(), np.int32, len(self._capacity))
        capacity = coo_array((sizes, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
        capacity.indices, capacity.indptr = capacity.indices.astype(np.int32), capacity.indptr.astype(np.int32)
        left = (capacity.astype(np.int64) - maximum_flow(capacity, 0, 1).flow.astype(np.int64)).tocsr()
        left.eliminate_zeros()
        reached = set(breadth_first_order(left, 0, return_predecessors=False).tolist())
        return [node for node, place in self._places.items() if place in reached]

    def _place(self, node: Hashable) -> int:
        return self._places.setdefault(node, len(self._places))
