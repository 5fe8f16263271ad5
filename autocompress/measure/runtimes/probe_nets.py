"""The tiny convolution nets that the probe times, built node by node."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Variant = Literal["fp32", "fp16", "uint8", "int8"]

_OPSET = 21
_IR_VERSION = 10
_SCALE = np.float32(0.02)


def residual_net(variant: Variant, *, channels: int = 32, size: int = 28, seed: int = 0) -> bytes:
    """A 3x3 convolution and a residual block of two (He et al. 2016), the smallest net that tells the variants apart.

    The shortcut matters: ONNX Runtime 1.31 turns int8 activations into uint8 ones along a plain chain, where both are
    as fast, but leaves convolutions around a shortcut in float32.

    Args:
        variant: ``fp32``, ``fp16`` (float16 throughout), or QuantizeLinear/DequantizeLinear pairs with ``uint8`` or
            ``int8`` activations and symmetric int8 weights, one scale a channel.
        channels: of every layer, in and out.
        size: height and width.
        seed: of the weights.

    Returns:
        A serialized model from ``x`` to ``y``, both ``(1, channels, size, size)`` float32.
    """
    builder = _Builder(variant, channels, np.random.default_rng(seed))
    entry = builder.relu(builder.conv(builder.enter("x"), "stem"), "stem")
    branch = builder.relu(builder.conv(entry, "first"), "first")
    branch = builder.quantized(builder.conv(branch, "second"), "second", positive=False)
    builder.leave(builder.relu(builder.add(branch, entry), "sum"), "y")
    return builder.serialize((1, channels, size, size))


class _Builder:
    """Collects nodes and initializers of one net."""

    def __init__(self, variant: Variant, channels: int, rng: np.random.Generator) -> None:
        self._variant = variant
        self._channels = channels
        self._rng = rng
        self._nodes: list[Any] = []
        self._initializers: dict[str, NDArray[Any]] = {}

    def enter(self, name: str) -> str:
        """The net's input in the type that its layers take."""
        if self._variant == "fp16":
            return self._add("Cast", [name], "x_half", to=TensorProto.FLOAT16)
        return self.quantized(name, "x", positive=False)

    def conv(self, value: str, name: str) -> str:
        """Append a 3x3 convolution; the name of its result."""
        channels = self._channels
        weight = self._rng.standard_normal((channels, channels, 3, 3), dtype=np.float32) / np.float32(3 * channels**0.5)
        bias = self._rng.standard_normal(channels, dtype=np.float32) * np.float32(0.1)
        if self._is_integer:
            scale = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
            codes = np.clip(np.round(weight / scale[:, None, None, None]), -127, 127).astype(np.int8)
            kernel = self._dequantized(f"{name}_w", codes, scale)
            bias_scale = scale * _SCALE
            offset = self._dequantized(f"{name}_b", np.round(bias / bias_scale).astype(np.int32), bias_scale)
        else:
            dtype = np.float16 if self._variant == "fp16" else np.float32
            kernel = self._constant(f"{name}_w", weight.astype(dtype))
            offset = self._constant(f"{name}_b", bias.astype(dtype))
        return self._add("Conv", [value, kernel, offset], f"{name}_conv", pads=[1, 1, 1, 1])

    def relu(self, value: str, name: str) -> str:
        """Append a ReLU, and a quantized pair behind it where the net has them."""
        return self.quantized(self._add("Relu", [value], f"{name}_relu"), name, positive=True)

    def add(self, value: str, other: str) -> str:
        """Append a sum."""
        return self._add("Add", [value, other], "sum")

    def quantized(self, value: str, name: str, *, positive: bool) -> str:
        """Append a quantize-dequantize pair; the zero point of a positive value is the least code."""
        if not self._is_integer:
            return value
        signed = self._variant == "int8"
        zero = (-128 if signed else 0) if positive else (0 if signed else 128)
        scale = self._constant(f"{name}_scale", np.asarray(_SCALE))
        point = self._constant(f"{name}_zero", np.asarray(zero, dtype=np.int8 if signed else np.uint8))
        codes = self._add("QuantizeLinear", [value, scale, point], f"{name}_q")
        return self._add("DequantizeLinear", [codes, scale, point], f"{name}_dq")

    def leave(self, value: str, name: str) -> None:
        """Give the result its float32 name."""
        self._nodes.append(helper.make_node("Cast", [value], [name], to=TensorProto.FLOAT))

    def serialize(self, shape: tuple[int, ...]) -> bytes:
        """The finished model."""
        graph = helper.make_graph(
            self._nodes,
            "probe",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in self._initializers.items()],
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return bytes(model.SerializeToString())

    @property
    def _is_integer(self) -> bool:
        return self._variant in ("uint8", "int8")

    def _add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        self._initializers[name] = array
        return name

    def _dequantized(self, name: str, codes: NDArray[Any], scale: NDArray[np.float32]) -> str:
        inputs = [
            self._constant(f"{name}_q", codes),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero", np.zeros(len(scale), dtype=codes.dtype)),
        ]
        return self._add("DequantizeLinear", inputs, f"{name}_dq", axis=0)
