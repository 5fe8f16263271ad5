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
    """``(n, groups, inputs)`` vectors that a layer multiplies the rows of its weight with.

    Args:
        node: a Conv with explicit padding, a Gemm or a MatMul.
        value: what it reads.
        weight: as the node reads it.
        places: ``(n,)`` positions of its output, counted over all axes but the channels in order.
    """
    if node.op_type != "Conv":
        return value.reshape(-1, value.shape[-1])[places][:, None]
    rank = value.ndim - 2
    kernel = weight.shape[2:]
    groups = int(node.attributes.get("group", 1))
    strides, dilations = ([int(n) for n in node.attributes.get(key, [1] * rank)] for key in ("strides", "dilations"))
    pads = [int(n) for n in node.attributes.get("pads", [0] * (2 * rank))]
    both = [(pads[axis], pads[axis + rank]) for axis in reversed(range(rank))]
    padded = torch.nn.functional.pad(value, list(itertools.chain(*both)))
    sizes = [
        (padded.shape[2 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1 for axis in range(rank)
    ]
    # Channels last: what is picked lies together in memory.
    flat = padded.movedim(1, -1).reshape(-1, padded.shape[1])
    sample, *at = _unravelled(places, (len(padded), *sizes))
    picked = []
    for offsets in itertools.product(*(range(size) for size in kernel)):
        index = sample
        for axis in range(rank):
            here = at[axis] * strides[axis] + offsets[axis] * dilations[axis]
            index = index * padded.shape[2 + axis] + here
        picked.append(flat[index])
    return torch.stack(picked, -1).reshape(len(places), groups, -1)


def _unravelled(places: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return torch.unravel_index(places, tuple(sizes))
