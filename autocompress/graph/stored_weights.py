"""Weights stored in integers or half floats, as float parameters that fall onto the stored grid when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.core.errors import ModelError, UnknownNameError
from autocompress.graph.codes import integers_of, packed_codes, unpacked_codes
from autocompress.graph.operator_node import OperatorNode
from autocompress.graph.operators_quantized import beside, round_through

_HALVES = {np.dtype(np.float16): torch.float16, np.dtype(ml_dtypes.bfloat16): torch.bfloat16}
#: Bits of integer weights; narrower ones lie in a wider type, and training must not leave them.
_WIDTHS = (2, 3, 4, 6, 7, 8)
#: Accumulators are added to an int32 bias.
_BIAS_TOP = 2.0**30
#: Operators that read codes as they are, and where.
_KERNELS = {"MatMulInteger": 1, "ConvInteger": 1}


class Stored(Protocol):
    """How an initializer is kept, and how a parameter becomes it again."""

    def start(self) -> Tensor:
        """The float32 parameter that stands for the initializer."""

    def read(self, parameter: Tensor) -> Tensor:
        """What nodes read in the initializer's place; gradients go straight through where nothing is clamped."""

    def write(self, parameter: Tensor) -> NDArray[Any]:
        """The initializer for a parameter: the old one's very bits where the parameter has not moved."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HalfWeight:
    """A float16 or bfloat16 initializer; training needs the bits below."""

    array: NDArray[Any]

    def start(self) -> Tensor:
        """The same numbers in float32."""
        return torch.from_numpy(self.array.astype(np.float32))

    def read(self, parameter: Tensor) -> Tensor:
        """Rounded to the stored type."""
        return parameter.to(_HALVES[self.array.dtype])

    def write(self, parameter: Tensor) -> NDArray[Any]:
        """Rounded to the stored type."""
        return parameter.detach().cpu().numpy().astype(self.array.dtype)


class MaskedWeight:
    """A float32 initializer of which a part stays zero.

    Args:
        array: as the graph stores it.
        mask: where it may be other than zero; of its shape.
    """

    def __init__(self, array: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        self.array = array
        self._gone = torch.from_numpy(~np.asarray(mask, np.bool_))

    def start(self) -> Tensor:
        """What the mask leaves."""
        return torch.from_numpy(np.array(self.array)).masked_fill(self._gone, 0.0)

    def read(self, parameter: Tensor) -> Tensor:
        """The same numbers; no gradient reaches what is masked."""
        self._gone = self._gone.to(parameter.device)
        return parameter.masked_fill(self._gone, 0.0)

    def write(self, parameter: Tensor) -> NDArray[Any]:
        """What the mask leaves."""
        return np.asarray(self.read(parameter.detach()).cpu().numpy())


class IntegerWeight:
    """Integer codes on the grid ``(code - zero) * scale``.

    The parameter holds the dequantized weight, so it trains with the learning rates of floats; scale and zero point
    stay. Nodes read codes, as floats: ``clamp(round(w / scale) + zero)``, half to even, straight-through gradients
    (Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons") that stop where codes end.

    Args:
        array: as the graph stores it.
        scale: broadcasts against the codes.
        zero: likewise.
        packed_bits: 4 or 8 where ``array`` holds bytes as MatMulNBits packs them, else None.
    """

    def __init__(
        self, array: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], packed_bits: int | None = None
    ) -> None:
        self.array, self.packed_bits = array, packed_bits
        self.codes = integers_of(array) if packed_bits is None else unpacked_codes(array, packed_bits)
        self.scale = np.asarray(scale, np.float32)
        self.zero = integers_of(np.asarray(zero)).astype(np.float32)
        self.low, self.high = _ends(self.codes, self.zero, packed_bits)
        self._grids: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def start(self) -> Tensor:
        """The dequantized weight, of the codes' shape."""
        return torch.from_numpy(np.asarray((self.codes.astype(np.float32) - self.zero) * self.scale, np.float32))

    def read(self, parameter: Tensor) -> Tensor:
        """Codes as float32."""
        scale, zero = self._grid(parameter.device)
        return torch.clamp(round_through(parameter / scale) + zero, self.low, self.high)

    def write(self, parameter: Tensor) -> NDArray[Any]:
        """Codes of the stored type; those whose weight has not moved stay, be they past float32's precision."""
        with torch.no_grad():
            found = self.read(parameter.detach().cpu()).numpy().astype(np.float64)
        moved = parameter.detach().cpu().numpy() != self.start().numpy()
        codes = np.where(moved, found, self.codes).astype(self.codes.dtype)
        return codes.astype(self.array.dtype) if self.packed_bits is None else packed_codes(codes, self.packed_bits)

    def _grid(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._grids:
            self._grids[device] = (
                torch.from_numpy(self.scale.copy()).to(device),
                torch.from_numpy(self.zero.copy()).to(device),
            )
        return self._grids[device]


def _ends(codes: NDArray[Any], zero: NDArray[np.float32], packed_bits: int | None) -> tuple[float, float]:
    """First and last code that training may reach: the ends of the fewest bits that hold all codes there are."""
    if codes.dtype.itemsize > 1:
        return -_BIAS_TOP, _BIAS_TOP
    if codes.dtype.kind == "u" and packed_bits is None and not np.all(zero == 128):
        return 0.0, float(2 ** next(b for b in _WIDTHS if int(codes.max()) < 2**b) - 1)
    half = 0 if codes.dtype.kind == "i" else 2 ** ((packed_bits or 8) - 1)
    low, high = int(codes.min()) - half, int(codes.max()) - half
    bits = next(b for b in _WIDTHS if -(2 ** (b - 1)) <= low and high < 2 ** (b - 1))
    top = 2 ** (bits - 1) - 1
    symmetric = low >= -top and bool(np.all(zero == half))
    return float(half - top - (0 if symmetric else 1)), float(half + top)


def masked_weights(
    initializers: Mapping[str, NDArray[Any]], masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, MaskedWeight]:
    """The weights that masks are given for.

    Raises:
        ModelError: a mask of another shape.
        UnknownNameError: a mask of what is no float32 initializer.
    """
    floats = {name: array for name, array in initializers.items() if array.dtype == np.float32}
    for name, mask in masks.items():
        if name not in floats:
            raise UnknownNameError("float32 initializer", name, floats)
        if mask.shape != floats[name].shape:
            raise ModelError(f"The mask of {name!r} has shape {mask.shape}, but it has {floats[name].shape}.")
    return {name: MaskedWeight(floats[name], mask) for name, mask in masks.items()}


def stored_weights(
    nodes: Sequence[tuple[OperatorNode, tuple[str, ...]]],
    initializers: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
) -> tuple[dict[str, Stored], set[str]]:
    """Initializers that become parameters by way of a grid, and names of the constants that make up the grids.

    Args:
        nodes: with the names of their outputs, in topological order.
        initializers: of the graph.
        outputs: of the graph; what it gives out is left as it is.
    """
    readers: dict[str, list[tuple[int, OperatorNode, tuple[str, ...]]]] = {}
    for node, names in nodes:
        for position, name in enumerate(node.inputs):
            if name:
                readers.setdefault(name, []).append((position, node, names))
    found: dict[str, Stored] = {}
    frozen: set[str] = set()
    makers = {names[0]: node for node, names in nodes if names}
    for name, uses in readers.items():
        if name not in initializers or name in outputs or initializers[name].size == 0:
            continue
        array = initializers[name]
        if array.dtype in _HALVES:
            if all(use.op_type == "Cast" for _, use, _ in uses) and array.ndim:
                found[name] = HalfWeight(array=array)
            continue
        if integers_of(array).dtype.name not in ("int8", "uint8", "int32"):
            continue
        grids = [_grid_of(name, array, use, readers, makers) for use in uses]
        first = grids[0]
        # Readers that place the same integers on different grids share them on purpose: they stay integers.
        if first is not None and all(grid is not None and grid[1] == first[1] for grid in grids):
            found[name] = first[0]
            frozen.update(first[1])
    return found, frozen - set(found)


_Use = tuple[int, OperatorNode, tuple[str, ...]]


def _grid_of(
    name: str,
    array: NDArray[Any],
    use: _Use,
    readers: Mapping[str, list[_Use]],
    makers: Mapping[str, OperatorNode],
) -> tuple[IntegerWeight, tuple[str, ...]] | None:
    """The grid on which one reader of codes places them, and the constants that it is made of."""
    position, node, names = use
    if node.op_type == "DequantizeLinear" and position == 0 and 1 in node.constants:
        if node.has(2) and 2 not in node.constants:
            return None
        zero = node.constants.get(2, np.zeros((), np.int8))
        scale, zero = (beside(part, node, array.shape) for part in (node.constants[1], zero))
        return IntegerWeight(array, scale, zero), tuple(str(n) for n in node.inputs[1:] if n)
    if node.op_type == "MatMulNBits" and position == 1 and 2 in node.constants:
        bits, shape = int(node.attributes["bits"]), array.shape[:2]
        zero = np.full((), 2 ** (bits - 1), np.uint8)
        if node.has(3):
            if 3 not in node.constants:
                return None
            zero = node.constants[3]
            if zero.dtype == np.uint8:
                zero = unpacked_codes(zero.reshape(shape[0], -1), bits)[:, : shape[1]]
            zero = zero.reshape(*shape, 1)
        scale = node.constants[2].reshape(*shape, 1)
        return IntegerWeight(array, scale, zero, bits), tuple(str(n) for n in node.inputs[2:4] if n)
    if node.op_type in _KERNELS and position == _KERNELS[node.op_type] and not node.has(3):
        scale = _factor_behind(names[0], readers, makers)
        if scale is None:
            return None
        factor, spread = scale
        # ConvInteger's result has its channels second, its weight first; MatMulInteger has them last in both.
        shape = () if spread.size == 1 else (-1, *[1] * (array.ndim - 1)) if node.op_type == "ConvInteger" else (-1,)
        return IntegerWeight(array, spread.reshape(shape), np.zeros((), np.int8)), (factor,)
    if node.op_type == "Cast" and names[0] in readers:
        return _behind_cast(array, names[0], readers, makers)
    return None


def _behind_cast(
    array: NDArray[Any], value: str, readers: Mapping[str, list[_Use]], makers: Mapping[str, OperatorNode]
) -> tuple[IntegerWeight, tuple[str, ...]] | None:
    """The grid of codes that are cast first, then perhaps centered by a Sub, then multiplied."""
    uses = readers[value]
    if len(uses) != 1:
        return None
    position, node, names = uses[0]
    if node.op_type in ("DequantizeLinear", *_KERNELS):
        return _grid_of(value, array, uses[0], readers, makers)
    zero: NDArray[Any] = np.zeros((), np.int8)
    grid: tuple[str, ...] = ()
    if node.op_type == "Sub" and position == 0:
        source = makers.get(str(node.inputs[1]))
        if source is None or source.op_type != "Cast" or 0 not in source.constants:
            return None
        zero, grid = source.constants[0], (str(source.inputs[0]),)
        if len(readers.get(names[0], ())) != 1:
            return None
        position, node, names = readers[names[0]][0]
    other = 1 - position
    if node.op_type != "Mul" or other not in node.constants or node.constants[other].dtype != np.float32:
        return None
    return IntegerWeight(array, node.constants[other], zero), (*grid, str(node.inputs[other]))


def _factor_behind(
    value: str, readers: Mapping[str, list[_Use]], makers: Mapping[str, OperatorNode]
) -> tuple[str, NDArray[Any]] | None:
    """The constant factor of a weight in what an integer kernel's sums are multiplied with, behind their Cast."""
    for op_type in ("Cast", "Mul"):
        uses = readers.get(value, [])
        if len(uses) != 1 or uses[0][1].op_type != op_type:
            return None
        position, node, names = uses[0]
        value = names[0]
    steps = makers.get(str(node.inputs[1 - position]))
    if steps is None or steps.op_type != "Mul":
        return None
    at = next((i for i in (1, 0) if i in steps.constants), None)
    return None if at is None else (str(steps.inputs[at]), steps.constants[at])
