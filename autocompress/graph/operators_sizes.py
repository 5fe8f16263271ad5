"""Sizes computed from the sizes of values: plain numbers, no tensors.

`torch.compile` takes a number that comes out of a tensor for something that only running tells, and stops there; of
numbers it knows what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from autocompress.graph.operator_node import Function, OperatorNode

#: A size, or a vector of sizes.
Sizes = Any
#: Inputs that a builder takes as plain numbers too; everything else gets a tensor.
_TAKES_SIZES: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
}


def sizes_function(node: OperatorNode, ranks: Mapping[str, int]) -> tuple[Function, int] | None:
    """What computes a node's sizes as plain numbers, and their rank; None where it is no such node.

    Args:
        node: its constants count as read where something is returned.
        ranks: of the values that are plain numbers: 0 for a number, 1 for a list.
    """
    if node.outputs != 1:
        return None
    if node.op_type == "Shape" and node.inputs[0] not in ranks:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return lambda x: list(x.shape)[start:end], 1
    rule = _RULES.get(node.op_type)
    held: dict[int, Sizes] = {}
    shapes: list[int] = []
    for position, name in enumerate(node.inputs):
        array = node.constants.get(position)
        if array is not None and array.ndim <= 1 and array.dtype.kind in "iub":
            held[position] = array.tolist()
            shapes.append(array.ndim)
        elif name is not None and name in ranks:
            shapes.append(ranks[name])
        else:
            return None
    if rule is None or len(held) == len(node.inputs):
        return None
    rank = rule[0](node, shapes, held)
    if rank is None:
        return None
    for position in held:
        node.constant(position)
    compute = rule[1]

    def run(*values: Sizes) -> Sizes:
        return compute(*(held.get(position, value) for position, value in enumerate(values)))

    return run, rank


def with_tensors(node: OperatorNode, function: Function, ranks: Mapping[str, int]) -> Function:
    """A function that may be given plain numbers where its operator takes tensors."""
    taken = _TAKES_SIZES.get(node.op_type, ())
    places = [at for at, name in enumerate(node.inputs) if name in ranks and at not in taken]
    if not places:
        return function

    def run(*values: Any) -> Any:
        return function(*(as_tensor(value) if at in places else value for at, value in enumerate(values)))

    return run


def as_tensor(sizes: Sizes) -> Tensor:
    """Plain numbers as an int64 tensor, or as a bool one."""
    whole = all(isinstance(size, bool) for size in sizes) if isinstance(sizes, list) else isinstance(sizes, bool)
    return torch.tensor(sizes, dtype=torch.bool if whole and sizes != [] else torch.int64)


def _same_rank(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return max(shapes)


def _gather_rank(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return shapes[1] if shapes[0] == 1 and 1 in held else None


def _vector(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return 1 if all(rank == 1 for rank in shapes) else None


def _reshape_rank(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return 1 if held.get(1) == [-1] else None


def _unsqueeze_rank(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return 1 if shapes[0] == 0 and held.get(1) in ([0], [-1]) else None


def _squeeze_rank(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return 0 if shapes[0] == 1 and held.get(1) in ([0], [-1]) else None


def _cast_rank(node: OperatorNode, shapes: list[int], held: Mapping[int, Sizes]) -> int | None:
    return shapes[0] if node.attributes.get("to") == ir.DataType.INT64 else None


def _elementwise(function: Callable[..., Any]) -> Callable[..., Sizes]:
    """Numbers repeat beside lists, and so do lists of one."""

    def run(*values: Sizes) -> Sizes:
        lengths = [len(value) for value in values if isinstance(value, list)]
        if not lengths:
            return function(*values)
        longest = max(lengths)
        rows = [
            (value if len(value) == longest else value * longest) if isinstance(value, list) else [value] * longest
            for value in values
        ]
        return [function(*row) for row in zip(*rows, strict=True)]

    return run


def _gather(sizes: list[Any], index: Sizes) -> Sizes:
    return [sizes[i] for i in index] if isinstance(index, list) else sizes[index]


def _divide(first: Any, second: Any) -> Any:
    """ONNX cuts off what is behind the point."""
    found = abs(first) // abs(second)
    return found if (first < 0) == (second < 0) else -found


def _as_vector(sizes: Sizes, *_: Sizes) -> Sizes:
    return sizes if isinstance(sizes, list) else [sizes]


_Rule = tuple[Callable[[OperatorNode, list[int], Mapping[int, Sizes]], int | None], Callable[..., Sizes]]
_RULES: dict[str, _Rule] = {
    "Add": (_same_rank, _elementwise(lambda a, b: a + b)),
    "Cast": (_cast_rank, _elementwise(lambda x: int(x) if isinstance(x, bool) else x)),
    "Concat": (_vector, lambda *parts: [size for part in parts for size in part]),
    "Div": (_same_rank, _elementwise(_divide)),
    "Equal": (_same_rank, _elementwise(lambda a, b: a == b)),
    "Gather": (_gather_rank, _gather),
    "Identity": (_same_rank, lambda x: x),
    "Mul": (_same_rank, _elementwise(lambda a, b: a * b)),
    "Reshape": (_reshape_rank, _as_vector),
    "Squeeze": (_squeeze_rank, lambda x, axes: x[0]),
    "Sub": (_same_rank, _elementwise(lambda a, b: a - b)),
    "Unsqueeze": (_unsqueeze_rank, _as_vector),
    "Where": (_same_rank, _elementwise(lambda c, a, b: a if c else b)),
}
