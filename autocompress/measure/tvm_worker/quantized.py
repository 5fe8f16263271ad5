"""Layers between DequantizeLinear and QuantizeLinear as integer kernels: 8-bit operands, 32-bit sums.

A layer becomes ``sum of integers`` (conv or matmul, int32), times ``input scale * weight scale`` of its channel in
float32, plus its bias. What follows it (Relu, QuantizeLinear, an Add) is elementwise, so TVM's fusion puts it into the
same kernel, and what travels between kernels is 8 bits. Scales are tensors, never literals: layers of one shape then
share one kernel, and one tuning. On a processor only what its dot product instruction computes is worth it: other
integer kernels take longer than float32's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst

from autocompress.measure.tvm_worker.dot_products import dot_product_of

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_EIGHT_BITS = ("int8", "uint8")
_RANGES = {"int8": (-128.0, 127.0), "uint8": (0.0, 255.0), "int16": (-32768.0, 32767.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKernel:
    """What a layer computes in.

    Args:
        node: the ONNX node's name.
        op_type: its operator.
        kernel: ``int8``, or the float type.
        reason: why a quantized layer is computed in floats; empty otherwise.
    """

    node: str
    op_type: str
    kernel: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codes:
    """What a DequantizeLinear was given: ``(codes - zero_point) * scale`` along ``axis``."""

    codes: relax.Expr
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int

    @property
    def constant(self) -> NDArray[Any] | None:
        return self.codes.value.numpy() if isinstance(self.codes, GenericConst) else None


class _RefusedError(Exception):
    """The layer has no integer kernel, and why."""


class IntegerLowering:
    """Converts the operators that have to do with integers; leaves the rest to TVM.

    Args:
        builder: that the importer emits into.
        target: that the kernels are for.
    """

    def __init__(self, builder: relax.BlockBuilder, target: tvm.target.Target) -> None:
        self.layers: list[LayerKernel] = []
        self._builder = builder
        self._dot = dot_product_of(target)
        self._needs_dot = target.kind.name == "llvm"
        # Keyed by the expression itself, which the values keep alive: an id is not taken twice.
        self._codes: dict[int, tuple[relax.Expr, _Codes]] = {}

    def convert(
        self, op_type: str, node: str, inputs: Sequence[relax.Expr | None], attributes: Mapping[str, Any]
    ) -> relax.Expr | None:
        """The operator as this package wants it; None where TVM's own conversion is right."""
        if op_type == "QuantizeLinear":
            return self._quantize(inputs, attributes)
        if op_type == "DequantizeLinear":
            return self._dequantize(inputs, attributes)
        if op_type in _LAYERS and len(inputs) > 1 and self._has_weight(op_type, inputs):
            return self._layer(op_type, node, inputs, attributes)
        return None

    def _has_weight(self, op_type: str, inputs: Sequence[relax.Expr | None]) -> bool:
        return (
            op_type != "MatMul"
            or any(isinstance(value, GenericConst) for value in inputs)
            or all(value is not None and id(value) in self._codes for value in inputs[:2])
        )

    def _layer(
        self, op_type: str, node: str, inputs: Sequence[relax.Expr | None], attributes: Mapping[str, Any]
    ) -> relax.Expr | None:
        data, weight = (self._codes.get(id(value), (None, None))[1] for value in inputs[:2])
        first = inputs[0]
        kernel = str(first.ty.dtype.dtype) if first is not None else "float32"
        reason = ""
        if data is not None and weight is not None:
            try:
                found = self._integer_layer(op_type, data, weight, inputs, attributes)
            except _RefusedError as refused:
                reason = str(refused)
            else:
                self.layers.append(LayerKernel(node=node, op_type=op_type, kernel="int8"))
                return found
        self.layers.append(LayerKernel(node=node, op_type=op_type, kernel=kernel, reason=reason))
        return None

    def _integer_layer(
        self,
        op_type: str,
        data: _Codes,
        weight: _Codes,
        inputs: Sequence[relax.Expr | None],
        attributes: Mapping[str, Any],
    ) -> relax.Expr:
        numbers = weight.constant
        if numbers is None:
            raise _RefusedError("both operands are activations, which would need sums of each at run time")
        if np.any(weight.zero_point):
            raise _RefusedError("its weight has a zero point, which would need sums of the activations at run time")
        kinds = (str(data.codes.ty.dtype.dtype), str(numbers.dtype))
        if not set(kinds) <= set(_EIGHT_BITS):
            raise _RefusedError(f"its operands are {' and '.join(kinds)}, and integer kernels are for 8 bits")
        if data.scale.size != 1:
            raise _RefusedError("its activations have a scale for each channel")
        if self._needs_dot and self._dot is None:
            raise _RefusedError("this processor has no dot product of 8-bit numbers, without which float32 is faster")
        if op_type == "Conv":
            sums, axis = self._conv(data, weight, numbers, attributes)
        elif op_type in ("Gemm", "MatMul"):
            sums, axis = self._matmul(op_type, data, weight, numbers, attributes)
        else:
            raise _RefusedError(f"TVM has no integer {op_type}")
        rank = len(sums.ty.shape)
        scale = _along(data.scale.reshape(-1)[0] * weight.scale.reshape(-1), rank, axis)
        result = self._emit(relax.op.multiply(self._emit(relax.op.astype(sums, "float32")), scale))
        bias = inputs[2] if len(inputs) > 2 else None
        if bias is None:
            return result
        if not isinstance(bias, GenericConst):
            raise _RefusedError("its bias is computed at run time")
        values = bias.value.numpy().astype(np.float32)
        # A Gemm's bias may be broadcast from any shape; a Conv's has one number a channel.
        shaped = _along(values, rank, axis) if op_type == "Conv" else relax.const(values)
        return self._emit(relax.op.add(result, shaped))

    def _conv(
        self, data: _Codes, weight: _Codes, numbers: NDArray[Any], attributes: Mapping[str, Any]
    ) -> tuple[relax.Expr, int]:
        spatial = numbers.ndim - 2
        if spatial not in (1, 2):
            raise _RefusedError(f"TVM has no integer Conv of {spatial} spatial axes")
        groups = int(attributes.get("group", 1))
        if self._needs_dot and groups > 1:
            raise _RefusedError("it sums over channels of a group only, too few for a dot product")
        if weight.scale.size > 1 and weight.axis != 0:
            raise _RefusedError(f"its weight has scales along axis {weight.axis}")
        if bytes(attributes.get("auto_pad", b"NOTSET")) not in (b"NOTSET", b"VALID"):
            raise _RefusedError("its padding follows from the input's size (auto_pad)")
        self._check_fit(np.moveaxis(numbers, 1, -1))
        codes, zero = self._operand(data)
        totals = numbers.reshape(len(numbers), -1).sum(1, dtype=np.int64)
        pads, strides, dilations = (
            [int(value) for value in attributes.get(name, default)]
            for name, default in (("pads", [0] * 2 * spatial), ("strides", [1] * spatial), ("dilations", [1] * spatial))
        )
        if spatial == 1:
            codes, numbers = self._emit(relax.op.expand_dims(codes, 2)), numbers[:, :, None]
            pads, strides, dilations = [0, pads[0], 0, pads[1]], [1, *strides], [1, *dilations]
        if zero and any(pads):
            # What lies outside is zero, whose code is the zero point.
            width = [0, 0, 0, 0, pads[0], pads[2], pads[1], pads[3]]
            codes, pads = self._emit(relax.op.nn.pad(codes, width, "constant", pad_value=float(zero))), [0] * 4
        sums = self._emit(
            relax.op.nn.conv2d(
                codes,
                relax.const(np.ascontiguousarray(numbers)),
                strides=strides,
                padding=pads,
                dilation=dilations,
                groups=groups,
                out_dtype="int32",
            )
        )
        if spatial == 1:
            sums = self._emit(relax.op.squeeze(sums, 2))
        return self._without_zero(sums, zero, totals, 1), 1

    def _matmul(
        self, op_type: str, data: _Codes, weight: _Codes, numbers: NDArray[Any], attributes: Mapping[str, Any]
    ) -> tuple[relax.Expr, int]:
        if numbers.ndim != 2:
            raise _RefusedError(f"its weight has {numbers.ndim} axes; integer kernels take 2")
        flipped = op_type == "Gemm" and bool(attributes.get("transB", 0))
        if op_type == "Gemm" and (
            attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
        ):
            raise _RefusedError("its alpha, beta or transA changes the product")
        if weight.scale.size > 1 and weight.axis % 2 != (0 if flipped else 1):
            raise _RefusedError(f"its weight has scales along axis {weight.axis}, the one that is summed over")
        matrix = np.ascontiguousarray(numbers.T if flipped else numbers)
        self._check_fit(matrix.T)
        codes, zero = self._operand(data)
        sums = self._emit(relax.op.matmul(codes, relax.const(matrix), out_dtype="int32"))
        last = len(sums.ty.shape) - 1
        return self._without_zero(sums, zero, matrix.sum(0, dtype=np.int64), last), last

    def _check_fit(self, weights: NDArray[Any]) -> None:
        """Refuse weights ``(outputs, ..., inputs)`` that the processor's instruction cannot sum up exactly."""
        if self._dot is not None and not self._dot.fits(weights):
            raise _RefusedError(
                "two of its products can exceed 16 bits, which is all that this processor's instruction keeps: "
                "weights of 7 bits never do"
            )

    def _operand(self, data: _Codes) -> tuple[relax.Expr, int]:
        """Codes of the type that the processor's instruction takes, and their zero point."""
        zero = int(data.zero_point.reshape(-1)[0])
        kind = str(data.codes.ty.dtype.dtype)
        if self._dot is None or self._dot.data == kind:
            return data.codes, zero
        shift = 128 if self._dot.data == "uint8" else -128
        wide = self._emit(relax.op.astype(data.codes, "int32"))
        moved = self._emit(relax.op.add(wide, relax.const(np.int32(shift))))
        return self._emit(relax.op.astype(moved, self._dot.data)), zero + shift

    def _without_zero(self, sums: relax.Expr, zero: int, totals: NDArray[Any], axis: int) -> relax.Expr:
        """``sum((x - zero) * w)`` from ``sum(x * w)``: take off ``zero * sum(w)``."""
        if not zero:
            return sums
        offset = _along((zero * totals).astype(np.int32), len(sums.ty.shape), axis)
        return self._emit(relax.op.subtract(sums, offset))

    def _quantize(self, inputs: Sequence[relax.Expr | None], attributes: Mapping[str, Any]) -> relax.Expr | None:
        found = _parameters(inputs, attributes)
        value = inputs[0]
        if found is None or value is None or str(value.ty.dtype.dtype) != "float32":
            return None
        scale, zero, axis, kind = found
        if kind not in _RANGES:
            return None
        rank = len(value.ty.shape)
        steps = self._emit(relax.op.round(self._emit(relax.op.divide(value, _along(scale, rank, axis)))))
        if np.any(zero):
            steps = self._emit(relax.op.add(steps, _along(zero.astype(np.float32), rank, axis)))
        # Relax's clip would stop the change of layout; minimum and maximum let it pass.
        low, high = (_along(np.full(1, bound, np.float32), rank, axis) for bound in _RANGES[kind])
        bounded = self._emit(relax.op.minimum(self._emit(relax.op.maximum(steps, low)), high))
        return self._emit(relax.op.astype(bounded, kind))

    def _dequantize(self, inputs: Sequence[relax.Expr | None], attributes: Mapping[str, Any]) -> relax.Expr | None:
        found = _parameters(inputs, attributes)
        value = inputs[0]
        if found is None or value is None:
            return None
        scale, zero, axis, _ = found
        if scale.dtype != np.float32:
            return None
        rank = len(value.ty.shape)
        codes = _Codes(codes=value, scale=scale, zero_point=zero, axis=axis)
        numbers = codes.constant
        if numbers is not None:
            shifted = numbers.astype(np.float32) - _shaped(zero.astype(np.float32), rank, axis)
            result = relax.const(shifted * _shaped(scale, rank, axis))
        else:
            result = self._emit(relax.op.astype(value, "float32"))
            if np.any(zero):
                result = self._emit(relax.op.subtract(result, _along(zero.astype(np.float32), rank, axis)))
            result = self._emit(relax.op.multiply(result, _along(scale, rank, axis)))
        self._codes[id(result)] = (result, codes)
        return result

    def _emit(self, value: relax.Expr) -> relax.Expr:
        return self._builder.emit(value)


def _parameters(
    inputs: Sequence[relax.Expr | None], attributes: Mapping[str, Any]
) -> tuple[NDArray[Any], NDArray[Any], int, str] | None:
    """Scale, zero point, axis and integer type; None where one is not constant, or there are scales by blocks."""
    scale = inputs[1]
    zero = inputs[2] if len(inputs) > 2 else None
    if not isinstance(scale, GenericConst) or attributes.get("block_size", 0):
        return None
    if zero is not None and not isinstance(zero, GenericConst):
        return None
    numbers = np.zeros(1, np.uint8) if zero is None else zero.value.numpy()
    return scale.value.numpy(), numbers, int(attributes.get("axis", 1)), str(numbers.dtype)


def _shaped(values: NDArray[Any], rank: int, axis: int) -> NDArray[Any]:
    """One value as ``(1, ..., 1)``, several along ``axis``."""
    shape = [1] * rank
    if values.size > 1:
        shape[axis] = values.size
    return values.reshape(shape)


def _along(values: NDArray[Any], rank: int, axis: int) -> GenericConst:
    return relax.const(np.ascontiguousarray(_shaped(values, rank, axis)))
