"""Heads that were merged with the batch axis and split from it again: written without the detour.

``nn.MultiheadAttention`` makes ``(tokens, batch, heads * size)`` into ``(tokens, batch * heads, size)``, swaps the axes
and takes ``batch * heads`` apart again; exporters do the like around a batched product. An axis that is part channels,
part batch cannot lose channels; the direct way, at most one Reshape that keeps the batch axis and one Transpose, can,
and gives the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Size = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detour:
    """A Reshape that merges the heads with the axis before them, a Transpose, and a Reshape that splits them again.

    Args:
        source: what the first Reshape reads.
        order: of the Transpose, over the merged axes.
        split: ``(heads, size)`` where the heads have to be split from the last axis first, else None.
        merged: which of the merged axes holds the heads.
    """

    source: ir.Value
    order: tuple[int, ...]
    split: tuple[int, int] | None
    merged: int

    @property
    def direct_order(self) -> list[int]:
        """Of the one Transpose that does it, over the axes that were never merged."""
        return [
            axis
            for old in self.order
            for axis in ((old, old + 1) if old == self.merged else (old + (old > self.merged),))
        ]


def split_merged_axes(graph: ir.Graph) -> bool:
    """Write every such detour directly.

    What is no longer read stays behind, for whoever removes unused nodes.

    Returns:
        Whether there was one.
    """
    rewritten = False
    for node in list(graph):
        found = _detour(node) if node.op_type == "Reshape" else None
        if found is not None:
            _shorten(graph, node, found)
            rewritten = True
    return rewritten


def _detour(last: ir.Node) -> _Detour | None:
    swap = _producer(last, "Transpose")
    first = None if swap is None else _producer(swap, "Reshape")
    if swap is None or first is None or first.inputs[0] is None:
        return None
    source, merged = _sizes(first.inputs[0]), _sizes(first.outputs[0])
    swapped, result = _sizes(last.inputs[0]), _sizes(last.outputs[0])
    order = tuple(swap.attributes.get_ints("perm", ()))
    if not len(merged) == len(swapped) == len(order) == len(result) - 1 == 3:
        return None
    if len(source) == 3 and source[0] == merged[0]:
        # (a, b, heads * size) -> (a, b * heads, size)
        width, size, at = source[2], merged[2], 1
        heads = width // size if _known(width, size) and size and width % size == 0 else 0
        split = (heads, size)
    elif len(source) == 4 and source[2:] == merged[1:]:
        # (b, heads, ...) -> (b * heads, ...)
        heads, at, split = source[1], 0, None
    else:
        return None
    place = order.index(at)
    untouched = [*result[:place], *result[place + 2 :]] == [*swapped[:place], *swapped[place + 1 :]]
    if not _known(heads) or heads < 2 or result[place + 1] != heads or not untouched:
        return None
    return _Detour(source=first.inputs[0], order=order, split=split, merged=at)


def _shorten(graph: ir.Graph, last: ir.Node, detour: _Detour) -> None:
    output = last.outputs[0]
    source, made = detour.source, []
    if detour.split is not None:
        # A zero copies the size of the axis at its place, be it known or not.
        tensor = ir.tensor(np.array([0, 0, *detour.split], np.int64), name=f"{output.name}_heads")
        sizes = ir.Value(name=tensor.name, shape=ir.Shape([4]), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(sizes)
        assert source.shape is not None
        made.append(_node("Reshape", [source, sizes], f"{output.name}_by_head", [*source.shape[:2], *detour.split]))
        source = made[0].outputs[0]
    assert output.shape is not None
    made.append(_node("Transpose", [source], f"{output.name}_direct", output.shape, perm=detour.direct_order))
    for node in made:
        node.outputs[0].type = output.type
    graph.insert_before(last, made)
    ir.convenience.replace_all_uses_with(output, made[-1].outputs[0], replace_graph_outputs=True)


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, shape: Iterable[Size], **lists: list[int]) -> ir.Node:
    value = ir.Value(name=name, shape=ir.Shape(shape))
    attributes = [ir.AttrInt64s(key, item) for key, item in lists.items()]
    return ir.Node("", op_type, inputs, attributes, name=f"{name}_node", outputs=[value])


def _producer(node: ir.Node, op_type: str) -> ir.Node | None:
    value = node.inputs[0]
    found = None if value is None else value.producer()
    return found if found is not None and found.op_type == op_type and found.domain == node.domain else None


def _sizes(value: ir.Value | None) -> list[Size]:
    """Sizes of a value's axes; integers, or what stands for an open one. Empty where unknown."""
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else size.value for size in value.shape]


def _known(*sizes: Size) -> bool:
    return all(isinstance(size, int) for size in sizes)
