"""What channel analysis knows while it walks a graph: an id for each entry of an axis, and which go together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autocompress.core.layer import Role

Ids = NDArray[np.intp]
#: One id for each entry of an axis, or, as a clause after "an axis that", why its entries cannot be removed.
Axis = Ids | str

POSITIONS = "holds positions"
OPEN_SIZE = "has no fixed size"
#: A role that comes first here wins where several nodes read one initializer.
_ROLES: tuple[Role, ...] = ("out", "in", "scale", "bias", "other")


class NotFollowedError(Exception):
    """A node that analysis cannot follow; the text ends a sentence that starts with its operator and name."""


class ChannelTracker:
    """Entry ids of the axes seen so far, and the couplings and blocks between them.

    An axis either has one id for each entry, or a reason why none of its entries can be removed. Ids start at the axes
    of initializers; operators hand them on, reorder them, or couple them.
    """

    def __init__(self) -> None:
        self._count = 0
        self._axes: dict[ir.Value, tuple[Axis, ...]] = {}
        self._couplings: list[tuple[Ids, Ids]] = []
        self._blocks: list[tuple[Ids, str]] = []
        self._roles: dict[tuple[ir.Value, int], Role] = {}
        self.producers: list[tuple[ir.Node, Ids]] = []

    def new_ids(self, size: int) -> Ids:
        """``(size,)`` ids that nothing is coupled to."""
        self._count += size
        return np.arange(self._count - size, self._count, dtype=np.intp)

    def fixed_ids(self, size: int, reason: str) -> Ids:
        """``(size,)`` ids that cannot be removed."""
        ids = self.new_ids(size)
        self._blocks.append((ids, f"meets an axis that {reason}"))
        return ids

    def axes(self, value: ir.Value | None) -> tuple[Axis, ...]:
        """The axes of a value; those of an initializer get ids when it is first read.

        Raises:
            NotFollowedError: the input is absent, or its shape is unknown.
        """
        if value is None:
            raise NotFollowedError("lacks an input")
        found = self._axes.get(value)
        if found is None:
            if not value.is_initializer() or value.const_value is None:
                raise NotFollowedError(f"reads {value.name!r}, whose shape is unknown")
            found = tuple(self.new_ids(int(size)) for size in value.const_value.shape.numpy())
            self._axes[value] = found
        return found

    def set_axes(self, value: ir.Value, axes: Iterable[Axis]) -> None:
        """Say what the axes of a node's output are."""
        self._axes[value] = tuple(axes)

    def set_role(self, value: ir.Value | None, axis: int, role: Role) -> None:
        """Say what an axis of an initializer is for; of several roles the strongest stays."""
        if value is not None and value.is_initializer():
            old = self._roles.get((value, axis), "other")
            self._roles[value, axis] = min(old, role, key=_ROLES.index)

    def role(self, value: ir.Value, axis: int) -> Role:
        """What an axis of an initializer is for."""
        return self._roles.get((value, axis), "other")

    def block(self, axis: Axis, reason: str) -> None:
        """Forbid removing any entry of an axis."""
        if not isinstance(axis, str) and axis.size:
            self._blocks.append((axis, reason))

    def couple(self, first: Axis, second: Axis, node: ir.Node) -> Axis:
        """Make entries of two axes of one size leave together, or block one where the other is fixed.

        Returns:
            What an axis made of the two is.
        """
        if isinstance(first, str) or isinstance(second, str):
            for axis, other in ((first, second), (second, first)):
                if isinstance(other, str):
                    self.block(axis, f"meets an axis that {other} in {title(node)}")
            return first if isinstance(first, str) else second
        if first.shape != second.shape:
            raise NotFollowedError(f"joins axes of {first.size} and {second.size} entries")
        if first is not second:
            self._couplings.append((first, second))
        return first

    def couple_all(self, axes: Sequence[Axis], node: ir.Node) -> Axis:
        """Couple any number of axes; none at all gives a fixed axis."""
        if not axes:
            return POSITIONS
        result = axes[0]
        for axis in axes[1:]:
            result = self.couple(result, axis, node)
        return result

    def tracked(self) -> Iterable[tuple[ir.Value, int, Ids]]:
        """Every axis that has ids: value, axis, ids."""
        for value, axes in self._axes.items():
            for index, axis in enumerate(axes):
                if not isinstance(axis, str):
                    yield value, index, axis

    def units(self) -> tuple[Ids, dict[int, str]]:
        """What must leave as one.

        Returns:
            ``(n_ids,)`` number of the unit that each id belongs to, and why blocked units are, by unit.
        """
        joined = [(np.ravel(a), np.ravel(b)) for a, b in self._couplings]
        rows = np.concatenate([a for a, _ in joined]) if joined else np.zeros(0, np.intp)
        columns = np.concatenate([b for _, b in joined]) if joined else np.zeros(0, np.intp)
        shape = (self._count, self._count)
        matrix = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=shape)
        unit_of = connected_components(matrix, directed=False)[1].astype(np.intp)
        reasons: dict[int, str] = {}
        for ids, reason in self._blocks:
            for unit in np.unique(unit_of[ids]).tolist():
                reasons.setdefault(unit, reason)
        return unit_of, reasons


def title(node: ir.Node) -> str:
    """Operator and name, as messages show them."""
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    return f"{domain}{node.op_type} {node.name!r}"


def sizes(value: ir.Value | None) -> tuple[int | None, ...]:
    """Sizes of a value, None for an open one.

    Raises:
        NotFollowedError: the input is absent, or its shape is unknown.
    """
    if value is None:
        raise NotFollowedError("lacks an input")
    if value.const_value is not None:
        return tuple(int(size) for size in value.const_value.shape.numpy())
    if value.shape is None:
        raise NotFollowedError(f"has {value.name!r}, whose shape is unknown")
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def constant(node: ir.Node, position: int) -> NDArray[np.generic] | None:
    """The value of a constant input; None where it is absent.

    Raises:
        NotFollowedError: it is computed at run time.
    """
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None or not value.name:
        return None
    if not value.is_initializer() or value.const_value is None:
        raise NotFollowedError(f"computes {value.name!r} at run time")
    return np.asarray(value.const_value.numpy())
