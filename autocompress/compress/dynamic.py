"""Integer layers whose activation ranges are found at run time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from autocompress.compress.edit import Attributes, Editor
from autocompress.compress.planes import stored_integers
from autocompress.compress.weights import QuantizedWeight


class DynamicMaker:
    """Turns layers of one graph into DynamicQuantizeLinear, MatMulInteger or ConvInteger, and a multiplication.

    ``y = (sum (x_q - x_zero) w_q) * x_scale * w_scale + bias``. ONNX Runtime fuses all of it into one
    ``DynamicQuantizeMatMul`` for a MatMul or Gemm; a ConvInteger stays one.
    """

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._quantized: dict[ir.Value, list[ir.Value]] = {}

    def convert(self, node: ir.Node, quantized: QuantizedWeight, bits: int) -> None:
        """Replace one layer.

        Args:
            node: a Conv, a MatMul with a weight of 2 axes, or a Gemm that neither scales nor transposes its input.
            quantized: its symmetric weight.
            bits: of the weight.
        """
        editor = self._editor
        source, name = node.inputs[0], str(node.inputs[1].name) if node.inputs[1] is not None else ""
        assert source is not None
        codes, step, zero = self._codes(node, source)
        conv = node.op_type == "Conv"
        values = quantized.values
        if node.op_type == "Gemm" and node.attributes.get_int("transB"):
            values = np.ascontiguousarray(values.T)
        stored = stored_integers(node, editor, values, bits, name, ir.DataType.INT8)
        kernel = "ConvInteger" if conv else "MatMulInteger"
        # ConvInteger's attributes are those of Conv.
        attributes: Attributes | None = dict(node.attributes) if conv else None
        shape = node.outputs[0].shape
        sums = editor.before(
            node, kernel, [codes, stored, zero], f"{node.name}_i32", ir.DataType.INT32, attributes=attributes
        )
        to_float: Attributes = {"to": int(ir.DataType.FLOAT)}
        real = editor.before(node, "Cast", [sums], f"{node.name}_f", ir.DataType.FLOAT, attributes=to_float)
        spread = (1, -1, *[1] * (values.ndim - 2)) if conv else (-1,)
        scale = quantized.scale[:1].reshape(()) if quantized.per_tensor else quantized.scale.reshape(spread)
        factors = editor.array(scale, f"{name}_scale")
        steps = editor.before(node, "Mul", [step, factors], f"{name}_steps", ir.DataType.FLOAT)
        result = editor.before(node, "Mul", [real, steps], f"{node.name}_real", ir.DataType.FLOAT, shape=shape)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            assert bias.const_value is not None
            offset = editor.array(bias.const_value.numpy().reshape(spread), f"{bias.name}_spread") if conv else bias
            result = editor.before(node, "Add", [result, offset], f"{node.name}_sum", ir.DataType.FLOAT, shape=shape)
        editor.supplant(node, result)

    def _codes(self, node: ir.Node, source: ir.Value) -> list[ir.Value]:
        """Codes, scale and zero point of a value; shared by the layers that read it, of which ``node`` is the first."""
        if source not in self._quantized:
            name, integer = str(source.name), ir.DataType.UINT8
            self._quantized[source] = self._editor.split_before(
                node,
                "DynamicQuantizeLinear",
                [source],
                {f"{name}_dyn": integer, f"{name}_dyn_scale": ir.DataType.FLOAT, f"{name}_dyn_zero": integer},
            )
        return self._quantized[source]
