"""Which axes of a Reshape's input hold the same entries as which axes of its result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from autocompress.graph.channel_tracker import NotFollowedError, sizes

#: Stand for open sizes where sizes are multiplied: no product of real sizes is a multiple of them.
OPEN = (1_000_003, 1_000_033, 1_000_037, 1_000_039)

Dim = int | ir.SymbolicDim


@dataclass(frozen=True, slots=True)
class Run:
    """Axes before and after that hold the same entries, and their sizes; no sizes where they cannot be told."""

    before: range
    after: range
    old_sizes: tuple[int, ...] | None
    new_sizes: tuple[int, ...] | None

    @property
    def same(self) -> bool:
        """Whether it is one axis that stays as it is."""
        return self.old_sizes is not None and self.old_sizes == self.new_sizes


def reshape_runs(node: ir.Node) -> list[Run]:
    """The shortest runs of a Reshape or Flatten, in order.

    Raises:
        NotFollowedError: shapes are unknown.
    """
    source, result = node.inputs[0], node.outputs[0]
    sizes(source), sizes(result)
    assert source is not None
    assert source.shape is not None
    assert result.shape is not None
    old, new = list(source.shape), list(result.shape)
    # Equal axes at either end are the same axes, however little is known of those between.
    tail = _equal(old[::-1], new[::-1])
    head = _equal(old[: len(old) - tail], new[: len(new) - tail])
    runs = [_single(axis, axis, old[axis]) for axis in range(head)]
    inner_old, inner_new = old[head : len(old) - tail], new[head : len(new) - tail]
    runs += _inner(inner_old, inner_new, head)
    runs += [_single(len(old) - at, len(new) - at, old[-at]) for at in range(tail, 0, -1)]
    return runs


def _inner(old: Sequence[Dim], new: Sequence[Dim], head: int) -> list[Run]:
    if not old and not new:
        return []
    try:
        before, after = _numbers(old, new)
        found = list(_runs(before, after))
    except NotFollowedError:
        whole = range(head, head + len(old)), range(head, head + len(new))
        return [Run(*whole, None, None)]
    return [
        Run(
            range(head + i.start, head + i.stop),
            range(head + j.start, head + j.stop),
            tuple(before[i.start : i.stop]),
            tuple(after[j.start : j.stop]),
        )
        for i, j in found
    ]


def _single(before: int, after: int, size: Dim) -> Run:
    number = size if isinstance(size, int) else OPEN[0]
    return Run(range(before, before + 1), range(after, after + 1), (number,), (number,))


def _equal(old: Sequence[Dim], new: Sequence[Dim]) -> int:
    """How many axes at the beginning have one size."""
    count = 0
    for first, second in zip(old, new, strict=False):
        known = isinstance(first, int) or (isinstance(first, ir.SymbolicDim) and first.value is not None)
        if not known or first != second:
            break
        count += 1
    return count


def _runs(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Shortest runs of axes, before and after, that hold equally many entries."""
    i = j = 0
    while i < len(before) or j < len(after):
        start_i, start_j = i, j
        left = right = 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after) and left > right:
                right, j = right * after[j], j + 1
            else:
                raise NotFollowedError("has sizes that do not agree")
        yield range(start_i, i), range(start_j, j)


def _numbers(old: Sequence[Dim], new: Sequence[Dim]) -> tuple[list[int], list[int]]:
    """Sizes before and after, with a prime for every open one; a nameless open size after is what is left."""
    primes = iter(OPEN)
    known: dict[str, int] = {}
    before: list[int] = []
    for dim in old:
        if isinstance(dim, int):
            before.append(dim)
            continue
        prime = next(primes, None)
        if prime is None:
            raise NotFollowedError("has too many open sizes")
        if dim.value is not None:
            prime = known.setdefault(dim.value, prime)
        before.append(prime)
    after = [dim if isinstance(dim, int) else known.get(dim.value or "", -1) for dim in new]
    if after.count(-1) > 1:
        raise NotFollowedError("has several open sizes")
    if -1 in after:
        rest = math.prod(size for size in after if size != -1)
        if not rest or math.prod(before) % rest:
            raise NotFollowedError("has sizes that do not agree")
        after[after.index(-1)] = math.prod(before) // rest
    return before, after
