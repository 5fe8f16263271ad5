"""Integers of 3 and 6 bits that lie in two initializers, as the one weight that they are.

ONNX has no type for them: a plane of low and one of high bits are unpacked by BitShift, Reshape and Cast and joined by
Mul, Add and perhaps Sub. Training needs the joined codes, which no node of torch's program then has to compute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.graph.codes import packed_codes, unpacked_codes
from autocompress.graph.operator_node import OperatorNode

_Nodes = Sequence[tuple[OperatorNode, tuple[str, ...]]]
#: What unpacks one plane, from its end to its initializer.
_UNPACKING = ("Cast", "Reshape", "BitShift", "BitShift")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    """Numbers of ``bits`` in an initializer, its first in the lowest bits of a byte, and the nodes that unpack it."""

    initializer: str
    array: NDArray[np.uint8]
    bits: int
    shape: tuple[int, ...]
    nodes: tuple[int, ...]

    def unpacked(self) -> NDArray[np.uint8]:
        return unpacked_codes(self.array, self.bits).reshape(self.shape)

    def packed(self, numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
        each = 8 // self.bits
        return packed_codes(numbers.reshape(-1, each), self.bits).reshape(self.array.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Join:
    """A low and a high plane, what is subtracted from their sum, and all nodes up to it."""

    low: _Plane
    high: _Plane
    half: int
    nodes: tuple[int, ...]


class PlaneWeights:
    """The weights of a program that lie in planes.

    Args:
        nodes: with the names of their outputs, in topological order.
        initializers: of the graph.

    Attributes:
        codes: name of the joined value to its integers, of the weight's shape.
    """

    def __init__(self, nodes: _Nodes, initializers: Mapping[str, NDArray[Any]]) -> None:
        self._initializers = initializers
        self._makers = {names[0]: index for index, (_, names) in enumerate(nodes) if names}
        self._joins: dict[str, _Join] = {}
        self.codes: dict[str, NDArray[Any]] = {}
        if not any(node.op_type == "BitShift" for node, _ in nodes):
            return
        places = {str(node.inputs[1]) for node, _ in nodes if node.op_type == "Gather"}
        centered = {str(node.inputs[0]): index for index, (node, _) in enumerate(nodes) if node.op_type == "Sub"}
        for index, (node, names) in enumerate(nodes):
            join = self._join(nodes, index) if node.op_type == "Add" else None
            if join is None:
                continue
            codes = join.low.unpacked() + (join.high.unpacked() << np.uint8(join.low.bits))
            name = names[0]
            kind: type[np.integer[Any]] = np.int32 if name in places else np.uint8
            last = centered.get(name)
            if last is not None and nodes[last][0].constants.get(1) == 2 ** (join.low.bits + join.high.bits - 1):
                half = 2 ** (join.low.bits + join.high.bits - 1)
                join, name, kind = replace(join, half=half, nodes=(*join.nodes, last)), nodes[last][1][0], np.int8
            self._joins[name] = join
            self.codes[name] = (codes.astype(np.int32) - join.half).astype(kind)

    def without_joins(self, nodes: _Nodes) -> list[tuple[OperatorNode, tuple[str, ...]]]:
        """The program without the nodes that join planes; the joined codes are constants of those that read them."""
        gone = {index for join in self._joins.values() for index in join.nodes}
        return [(self._reading(node), names) for index, (node, names) in enumerate(nodes) if index not in gone]

    def split(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays by name, with each joined weight as its two initializers again."""
        found: dict[str, NDArray[Any]] = {}
        for name, array in arrays.items():
            join = self._joins.get(name)
            if join is None:
                found[name] = array
                continue
            codes = (array.astype(np.int32) + join.half).astype(np.uint8)
            found[join.low.initializer] = join.low.packed(codes & np.uint8(2**join.low.bits - 1))
            found[join.high.initializer] = join.high.packed(codes >> np.uint8(join.low.bits))
        return found

    def _reading(self, node: OperatorNode) -> OperatorNode:
        read = {i: self.codes[name] for i, name in enumerate(node.inputs) if name in self.codes}
        return replace(node, constants={**node.constants, **read}) if read else node

    def _join(self, nodes: _Nodes, index: int) -> _Join | None:
        """The planes that an Add puts together: ``high * 2**low.bits + low``."""
        first, second = (self._makers.get(str(name)) for name in nodes[index][0].inputs)
        if first is None or second is None or nodes[first][0].op_type != "Mul":
            return None
        high, low = (
            self._plane(nodes, str(nodes[first][0].inputs[0])),
            self._plane(nodes, str(nodes[index][0].inputs[1])),
        )
        if high is None or low is None or high.shape != low.shape or nodes[first][0].constants.get(1) != 2**low.bits:
            return None
        return _Join(low=low, high=high, half=0, nodes=(*low.nodes, *high.nodes, first, index))

    def _plane(self, nodes: _Nodes, value: str) -> _Plane | None:
        """The plane that a value is unpacked from, where no other node does anything to it on the way."""
        chain: list[int] = []
        for op_type in _UNPACKING:
            index = self._makers.get(value)
            if index is None or nodes[index][0].op_type != op_type:
                return None
            chain.append(index)
            value = str(nodes[index][0].inputs[0])
        array, down, sizes = (
            self._initializers.get(value),
            nodes[chain[2]][0].constants.get(1),
            nodes[chain[1]][0].constants.get(1),
        )
        if array is None or array.dtype != np.uint8 or down is None or down.size != 1 or sizes is None:
            return None
        shape, bits = tuple(int(size) for size in sizes), 8 - int(down)
        if bits not in (1, 2, 4) or math.prod(shape) * bits != array.size * 8:
            return None
        return _Plane(initializer=value, array=array, bits=bits, shape=shape, nodes=tuple(chain))
