"""What a layer multiplies its weight with and what comes out, as rows at sampled positions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from autocompress.graph.operator_node import OperatorNode


def output_rows(value: Tensor, places: Tensor, channels: int) -> Tensor:
    """``(n, channels)`` of a value at some of its positions.

    Args:
        value: channels at axis ``channels``, which is 1 or the last.
        places: ``(n,)`` positions, counted over all other axes in order.
        channels: axis.
    """
    last = value.movedim(channels, -1)
    if last.is_contiguous():
        return last.reshape(-1, last.shape[-1])[places]
    return last[_unravelled(places, last.shape[:-1])]


def input_rows(node: OperatorNode, value: Tensor, weight: Tensor, places: Tensor) -> Tensor:
    """``(groups, n, inputs)`` vectors that a layer multiplies the rows of its :func:`weight_matrix` with.

    Args:
        node: a Conv with explicit padding, a Gemm or a MatMul.
        value: what it reads.
        weight: as the node reads it.
        places: ``(n,)`` rising positions of its output, counted over all axes but the channels in order.
    """
    if node.op_type != "Conv":
        return value.reshape(-1, value.shape[-1])[places][None]
    rank, kernel = value.ndim - 2, weight.shape[2:]
    strides, dilations = (_each(node, name, rank) for name in ("strides", "dilations"))
    pads = [int(n) for n in node.attributes.get("pads", [0] * (2 * rank))]
    sizes = [
        (value.shape[2 + axis] + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1)
        // strides[axis]
        + 1
        for axis in range(rank)
    ]
    sample, *at = _unravelled(places, (len(value), *sizes))
    # Of the samples looked at only, and channels last: what is picked lies together in memory.
    first, last = (int(sample[0]), int(sample[-1]) + 1) if len(places) else (0, 0)
    both = [(pads[axis], pads[axis + rank]) for axis in reversed(range(rank))]
    padded = value[first:last].movedim(1, -1)
    if any(pads):
        padded = torch.nn.functional.pad(padded, [0, 0, *itertools.chain(*both)])
    padded = padded.contiguous()
    # Neighbours along the last axis too, so that they are picked as one.
    channels, run = value.shape[1], kernel[-1] if dilations[-1] == 1 else 1
    runs = padded.as_strided((padded.numel() // channels - run + 1, run * channels), (channels, 1))
    rows = value.new_empty(len(places), kernel.numel() // run, run * channels)
    for position, offsets in enumerate(itertools.product(*map(range, kernel[:-1]), range(0, kernel[-1], run))):
        index = sample - first
        for axis in range(rank):
            here = at[axis] * strides[axis] + offsets[axis] * dilations[axis]
            index = index * padded.shape[1 + axis] + here
        rows[:, position] = runs[index]
    groups = int(node.attributes.get("group", 1))
    return rows.unflatten(2, (run, groups, -1)).permute(3, 0, 1, 2, 4).flatten(2)


def rows_between(
    node: OperatorNode, values: Sequence[Tensor], weight: Tensor, places: Sequence[Tensor], span: range
) -> Tensor:
    """:func:`input_rows` of several batches: those of a span, counted over the places of all batches."""
    found, first, last = [], span.start, span.stop
    for value, some in zip(values, places, strict=True):
        if first < len(some) and last > 0:
            found.append(input_rows(node, value, weight, some[max(0, first) : last]))
        first, last = first - len(some), last - len(some)
    return torch.cat(found, 1) if len(found) > 1 else found[0]


def weight_matrix(node: OperatorNode, weight: Tensor) -> Tensor:
    """``(groups, outputs, inputs)`` of a layer's weight; of a convolution, the inputs of one position lie together."""
    if node.op_type != "Conv":
        return (weight if _rows_first(node) else weight.T)[None]
    return weight.unflatten(0, (int(node.attributes.get("group", 1)), -1)).movedim(2, -1).flatten(2)


def stored_weight(node: OperatorNode, matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight of :func:`weight_matrix`, in the shape that the graph stores."""
    if node.op_type != "Conv":
        return matrix[0] if _rows_first(node) else matrix[0].T
    return matrix.flatten(0, 1).unflatten(1, (*shape[2:], -1)).movedim(-1, 1)


def _rows_first(node: OperatorNode) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get("transB", 0))


def _each(node: OperatorNode, name: str, rank: int) -> list[int]:
    return [int(n) for n in node.attributes.get(name, [1] * rank)]


def _unravelled(places: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return torch.unravel_index(places, tuple(sizes))
