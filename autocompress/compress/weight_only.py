"""Weights kept in few bits for layers that compute in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.edit import Editor
from autocompress.compress.planes import stored_integers
from autocompress.compress.weights import QuantizedWeight
from autocompress.core.errors import CandidateError
from autocompress.graph.layers import RECURRENT_GATES


def store_packed(node: ir.Node, editor: Editor, bits: int, quantized: QuantizedWeight, index: int = 1) -> None:
    """Keep a layer's weight, its input ``index``, as packed integers, a Cast and a Mul by the scales.

    ONNX Runtime folds both at load, so the layer runs at float32 speed from a fraction of the bytes; it does not fold a
    DequantizeLinear, which would run at every inference.
    """
    name = input_name(node, index)
    sizes = quantized.values.shape
    shape = [1] * len(sizes)
    shape[quantized.axis] = -1
    steps = quantized.scale[:1].reshape(()) if quantized.per_tensor else quantized.scale.reshape(shape)
    scale = editor.array(steps, f"{name}_scale")
    integers = stored_integers(node, editor, quantized.values, bits, name, ir.DataType.FLOAT)
    real = editor.before(node, "Mul", [integers, scale], f"{name}_dq", ir.DataType.FLOAT, shape=ir.Shape(sizes))
    node.replace_input_with(index, real)


def store_half(
    node: ir.Node,
    editor: Editor,
    weight: NDArray[np.float32],
    kind: ir.DataType = ir.DataType.FLOAT16,
    index: int = 1,
) -> None:
    """Keep a layer's weight, input ``index``, as float16 or bfloat16 behind a Cast, which ONNX Runtime folds at load.

    Raises:
        CandidateError: a weight is past float16's range.
    """
    name = input_name(node, index)
    stored = editor.constant(to_half_type(weight, name, f"{name}_half", kind))
    real = editor.before(
        node,
        "Cast",
        [stored],
        f"{name}_f",
        ir.DataType.FLOAT,
        shape=ir.Shape(weight.shape),
        attributes={"to": int(ir.DataType.FLOAT)},
    )
    node.replace_input_with(index, real)


def input_name(node: ir.Node, index: int) -> str:
    """Name of what a node reads at a position."""
    value = node.inputs[index]
    return "" if value is None else str(value.name)


def to_half_type(array: NDArray[np.float32], name: str, stored: str, kind: ir.DataType) -> ir.Tensor[Any]:
    """A tensor called ``stored`` that holds an array in float16 or bfloat16.

    Raises:
        CandidateError: a value is past float16's range; bfloat16 has that of float32.
    """
    if kind == ir.DataType.FLOAT16:
        return ir.Tensor(np.asarray(to_float16(array, name)), name=stored)
    return ir.Tensor(np.asarray(array.astype(kind.numpy())), dtype=kind, name=stored)


def to_float16(array: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """The array in float16.

    Raises:
        CandidateError: a value is past float16's range.
    """
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        peak = float(np.abs(array).max())
        raise CandidateError("quantize", f"{name!r} holds {peak:.4g}, but float16 ends at 65504")
    return half


def output_axis(node: ir.Node, ndim: int) -> int:
    """Axis of the output channels in a layer's weight of ``ndim`` axes."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose" or node.op_type in RECURRENT_GATES:
        return 1
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return ndim - 1
