"""ONNX operators on integers as torch functions of floats that hold integers, so that gradients pass.

Rounding is half to even and lets gradients straight through; clamping stops them outside the integers' range. Scales
get the gradient of the formula as it stands, without the extra scaling of LSQ (Esser et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.graph.codes import unpacked_codes
from autocompress.graph.operator_node import Function, OperatorNode
from autocompress.graph.operators_spatial import conv

#: First and last integer of each type that QuantizeLinear writes, and the type a graph's output gets.
_RANGES: dict[str, tuple[int, int, torch.dtype]] = {
    "uint8": (0, 255, torch.uint8),
    "int8": (-128, 127, torch.int8),
    "uint16": (0, 65535, torch.uint16),
    "int16": (-32768, 32767, torch.int16),
    "uint4": (0, 15, torch.uint8),
    "int4": (-8, 7, torch.int8),
    "uint2": (0, 3, torch.uint8),
    "int2": (-2, 1, torch.int8),
}
_INTEGER_CASTS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32})


def round_through(x: Tensor) -> Tensor:
    """Half to even; the gradient is that of the identity.

    The sum is exact, as both parts are multiples of the last bit of ``x``.
    """
    return x + (torch.round(x) - x).detach()


def beside(part: Any, node: OperatorNode, shape: Any) -> Any:
    """A scale or zero point of QuantizeLinear or DequantizeLinear, so that it broadcasts against ``shape``.

    Args:
        part: array or tensor: one number, one an entry of the ``axis``, or one a block of it.
        node: with the attributes ``axis`` and ``block_size``.
        shape: of the whole.
    """
    axis, block = int(node.attributes.get("axis", 1)), int(node.attributes.get("block_size", 0))
    if block:
        axis %= len(shape)
        repeat = torch.repeat_interleave if isinstance(part, Tensor) else np.repeat
        cut = (slice(None),) * axis + (slice(shape[axis]),)
        return repeat(part, block, axis)[cut] if part.ndim else part
    if part.ndim != 1 or (part.shape[0] == 1 and len(shape) != 1):
        return part if part.ndim == 0 else part.reshape(())
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return part.reshape(sizes)


def quantize_linear(node: OperatorNode) -> Function:
    """QuantizeLinear: ``clamp(round(x / scale) + zero)`` as floats."""
    low, high, _ = _RANGES[_type_of(node)]

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        codes = round_through(x / beside(scale, node, x.shape))
        if zero is not None:
            codes = codes + beside(zero, node, x.shape)
        return torch.clamp(codes, low, high)

    return run


def dequantize_linear(node: OperatorNode) -> Function:
    """DequantizeLinear: ``(x - zero) * scale``; integers or floats that hold them."""

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        centered = x.to(scale.dtype)
        if zero is not None:
            centered = centered - beside(zero, node, x.shape)
        steps: Tensor = beside(scale, node, x.shape)
        return centered * steps

    return run


def dynamic_quantize_linear(node: OperatorNode) -> Function:
    """DynamicQuantizeLinear: codes, scale and zero point of a value's own range, zero included."""

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = torch.clamp(x.detach().amin(), max=0.0), torch.clamp(x.detach().amax(), min=0.0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.clamp(torch.round(-low / scale), 0, 255)
        return torch.clamp(round_through(x / scale) + zero, 0, 255), scale, zero

    return run


def _centered(x: Tensor, zero: Tensor | None, shape: tuple[int, ...] = ()) -> Tensor:
    real = x.to(torch.float32)
    if zero is None:
        return real
    return real - (zero.reshape(shape) if shape and zero.ndim else zero)


def matmul_integer(node: OperatorNode) -> Function:
    """MatMulInteger; sums are floats, exact below 2^24."""

    def run(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        return torch.matmul(_centered(a, a_zero, (-1, 1)), _centered(b, b_zero))

    return run


def conv_integer(node: OperatorNode) -> Function:
    """ConvInteger; sums are floats, exact below 2^24."""
    function = conv(node)

    def run(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        spread = (-1, *[1] * (w.ndim - 1))
        result: Tensor = function(_centered(x, x_zero), _centered(w, w_zero, spread))
        return result

    return run


def matmul_nbits(node: OperatorNode) -> Function:
    """MatMulNBits, whose codes come unpacked: ``(N, blocks, block_size)``."""
    inner, bits = int(node.attributes["K"]), int(node.attributes["bits"])
    if node.has(4):
        raise node.error("`g_idx` is not supported")
    packed, scales = node.constants.get(1), node.constants.get(2)
    if packed is None or scales is None or (node.has(3) and 3 not in node.constants):
        raise node.error("its weight, scales and zero points must be constants")
    rows, blocks = packed.shape[:2]
    zeros = node.constant(3)
    middle: Any = float(2 ** (bits - 1))
    if zeros is not None:
        codes = unpacked_codes(zeros.reshape(rows, -1), bits)[:, :blocks] if zeros.dtype == np.uint8 else zeros
        middle = torch.from_numpy(codes.reshape(rows, blocks, 1).astype(np.float32))

    def run(x: Tensor, codes: Tensor, scale: Tensor, *rest: Tensor | None) -> Tensor:
        bias = rest[2] if len(rest) > 2 else None
        shift = middle.to(codes.device) if isinstance(middle, Tensor) else middle
        weight = (codes - shift) * scale.reshape(rows, blocks, 1)
        return F.linear(x, weight.reshape(rows, -1)[:, :inner].to(x.dtype), bias)

    return run


def _type_of(node: OperatorNode) -> str:
    """Name of the integer type that QuantizeLinear writes."""
    wanted = int(node.attributes.get("output_dtype", 0))
    zero = node.constants.get(2)
    name = ir.DataType(wanted).name.lower() if wanted else "uint8" if not node.has(2) else None
    if name is None and zero is not None:
        name = zero.dtype.name
    if name not in _RANGES:
        raise node.error(f"integers of type {name or 'unknown'} are not supported (known: {', '.join(_RANGES)})")
    return name


#: Types of what an operator writes that are floats here; None for a float.
_WRITES: dict[str, Callable[[OperatorNode], tuple[torch.dtype | None, ...]]] = {
    "QuantizeLinear": lambda node: (_RANGES[_type_of(node)][2],),
    "DynamicQuantizeLinear": lambda node: (torch.uint8, None, torch.uint8),
    "MatMulInteger": lambda node: (torch.int32,),
    "ConvInteger": lambda node: (torch.int32,),
}


def integer_outputs(node: OperatorNode) -> tuple[torch.dtype | None, ...]:
    """For each output the integer type that its floats stand for; empty where there is none."""
    writes = _WRITES.get(node.op_type)
    return () if writes is None else writes(node)


def keeps_codes(node: OperatorNode) -> bool:
    """Whether a node casts integers to integers: codes in floats stay as they are."""
    return node.op_type == "Cast" and ir.DataType(int(node.attributes["to"])) in _INTEGER_CASTS
