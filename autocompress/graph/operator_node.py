"""What an operator builder sees of one ONNX node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import ModelError

#: Takes one argument for each input of the node (None for one that is absent or was read as a constant).
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatorNode:
    """One node, with attributes as plain Python values.

    Args:
        op_type: ONNX operator.
        name: of the node, for messages.
        inputs: value names; None for an optional input that is absent.
        outputs: how many outputs are in use.
        attributes: name to int, float, str, sequence of them, or array.
        constants: input position to array, for inputs that are initializers.
        consumed: positions a builder has read as constants; the executor passes None there.
    """

    op_type: str
    name: str
    inputs: tuple[str | None, ...]
    outputs: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, NDArray[Any]] = field(default_factory=dict)
    consumed: set[int] = field(default_factory=set)

    def error(self, reason: str) -> ModelError:
        """An error that names the operator and the node."""
        return ModelError(f"Cannot run operator {self.op_type} of node {self.name!r}: {reason}.")

    def has(self, position: int) -> bool:
        """Whether the optional input is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def constant(self, position: int) -> NDArray[Any] | None:
        """The value of a constant input, which then is not passed at run time; None where it is not constant."""
        value = self.constants.get(position)
        if value is not None:
            self.consumed.add(position)
        return value

    def integers(self, position: int) -> tuple[int, ...] | None:
        """A constant input as integers; None where it is absent or computed at run time."""
        value = self.constant(position)
        return None if value is None else tuple(int(v) for v in np.ravel(value))

    def scalar(self, position: int) -> float | None:
        """A constant one-element input as a number; None where it is absent or computed at run time."""
        value = self.constants.get(position)
        if value is None or value.size != 1:
            return None
        self.consumed.add(position)
        return float(np.ravel(value)[0])

    def choice(self, attribute: str, default: str, known: tuple[str, ...]) -> str:
        """A text attribute that must be one of ``known``."""
        value = self.attributes.get(attribute, default)
        if value not in known:
            raise self.error(f"{attribute} {value!r} is not supported (known: {', '.join(known)})")
        return str(value)
