"""Linear layers whose weights stay packed at run time: ``com.microsoft::MatMulNBits``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from autocompress.compress.edit import Editor
from autocompress.compress.grouping import GroupedWeight
from autocompress.core.layer_rules import STORED_BITS, refused_packed
from autocompress.core.plan import LayerPlan
from autocompress.graph.codes import packed_codes
from autocompress.graph.layers import layer_names
from autocompress.graph.model_graph import ModelGraph

DOMAIN = "com.microsoft"
#: Compute in float32; 4 would quantize activations to int8 inside the kernel.
_FLOAT32 = 1


def refused_matmul_nbits(node: ir.Node, plan: LayerPlan) -> str | None:
    """Why a layer cannot run in MatMulNBits, or None; it is stored packed and unpacked at load then."""
    reason = refused_packed(plan, node.op_type)
    if reason is not None:
        return reason
    weight = node.inputs[1]
    if weight is None or weight.shape is None or len(weight.shape) != 2:
        return "MatMulNBits needs a weight of 2 axes"
    if node.op_type == "Gemm":
        return _refused_gemm(node, weight.shape[0 if node.attributes.get_int("transB", 0) else 1])
    return None


def fallbacks(graph: ModelGraph, plans: Mapping[str, LayerPlan]) -> dict[str, str]:
    """Layer name to why it cannot run in MatMulNBits, for layers quantized in blocks that are unpacked at load."""
    names = layer_names(graph.model)
    nodes = {names[str(node.name)]: node for node in graph.model.graph if str(node.name) in names}
    blocks = {name: plan for name, plan in plans.items() if plan.granularity == "block" and plan.format == "uniform"}
    reasons = {name: refused_matmul_nbits(nodes[name], plan) for name, plan in blocks.items() if name in nodes}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def use_matmul_nbits(node: ir.Node, editor: Editor, grouped: GroupedWeight, plan: LayerPlan) -> None:
    """Replace a MatMul or Gemm by MatMulNBits.

    Its weight is ``(N, blocks, block_size * bits / 8)`` with the first number of a byte in its low bits, its zero
    points ``(N, ceil(blocks * bits / 8))``; without zero points they are ``2^(bits-1)``.

    Args:
        node: for which :func:`refused_matmul_nbits` has no reason.
        editor: of its graph.
        grouped: its weight in blocks.
        plan: its bits are read.
    """
    bits = STORED_BITS[plan.weight_bits]
    half = 2 ** (bits - 1)
    name = str(node.inputs[1].name) if node.inputs[1] is not None else ""
    codes = (grouped.codes.astype(np.int16) + half).astype(np.uint8)
    inputs: list[ir.Value | None] = [
        node.inputs[0],
        editor.array(packed_codes(codes, bits), f"{name}_q{bits}"),
        editor.array(grouped.scale, f"{name}_scale"),
    ]
    if grouped.zero is not None:
        zeros = (grouped.zero.astype(np.int16) + half).astype(np.uint8)
        inputs.append(editor.array(packed_codes(zeros, bits), f"{name}_zero"))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        inputs += [None] * (5 - len(inputs)) + [bias]
    rows, _, _ = grouped.codes.shape
    attributes = {
        "K": grouped.grouping.width,
        "N": rows,
        "bits": bits,
        "block_size": grouped.grouping.block_size,
        "accuracy_level": _FLOAT32,
    }
    made = editor.before(
        node, "MatMulNBits", inputs, f"{node.name}_nbits", ir.DataType.FLOAT, attributes=attributes, domain=DOMAIN
    )
    editor.supplant(node, made)


def _refused_gemm(node: ir.Node, channels: int | ir.SymbolicDim) -> str | None:
    if node.attributes.get_int("transA", 0):
        return "it transposes its input"
    for name in ("alpha", "beta"):
        if node.attributes.get_float(name, 1.0) != 1.0:
            return f"it scales its result ({name} is {node.attributes.get_float(name, 1.0):g})"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (not bias.is_initializer() or bias.shape is None or list(bias.shape) != [channels]):
        return f"its bias is not a constant of shape ({channels},)"
    return None
