"""Which precisions the graph allows a layer, and what a plan means for each layer."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from autocompress.core.errors import ModelError, PlanError
from autocompress.core.layer import LayerInfo
from autocompress.core.plan import DEFAULT, CompressionPlan, LayerPlan
from autocompress.core.target import Precision
from autocompress.graph.layers import RECURRENT_GATES
from autocompress.graph.model_graph import ModelGraph

INTEGER = frozenset({Precision.INT8, Precision.INT4, Precision.INT2})


def legal_precisions(layer: LayerInfo, graph: ModelGraph) -> dict[Precision, str | None]:
    """Precision to None where the graph allows it for a layer, else to the reason why not.

    What a target has fast kernels for is not asked here.

    Raises:
        ModelError: the graph has no such layer.
    """
    node = next((node for node in graph.model.graph if node.name == layer.node), None)
    if node is None:
        raise ModelError(f"The graph has no node {layer.node!r} for layer {layer.name!r}.")
    return _legal(node)


def legality(graph: ModelGraph) -> dict[str, dict[Precision, str | None]]:
    """Layer name to :func:`legal_precisions`, for all layers of a graph."""
    nodes = {str(node.name): node for node in graph.model.graph}
    return {layer.name: _legal(nodes[layer.node]) for layer in graph.layers()}


def layer_plans(plan: CompressionPlan, legal: Mapping[str, Mapping[Precision, str | None]]) -> dict[str, LayerPlan]:
    """What a plan means for each layer; layers that stay float32 are left out.

    ``"*"`` applies to every layer that may take it.

    Args:
        plan: its names are checked.
        legal: as :func:`legality` gives it.

    Raises:
        PlanError: an unknown layer, or one named explicitly that may not take its precision.
    """
    plan.check(layers=legal, groups=plan.prune, blocks=plan.skip)
    found = {}
    for name, reasons in legal.items():
        wanted = plan.layer(name)
        precision = Precision.matching(wanted)
        # The graph decides by whether a layer computes in integers; the rest is a matter of storage.
        kind = precision or (Precision.INT8 if wanted.activation_bits == 8 else Precision.W8)
        reason = reasons[kind]
        if reason is not None and name in plan.layers and name != DEFAULT:
            raise PlanError(f"Layer {name!r} cannot be {precision or wanted.label}: {reason}.")
        if reason is None and wanted.weight_bits < 32:
            found[name] = wanted
    return found


def _legal(node: ir.Node) -> dict[Precision, str | None]:
    anything = _refused(node)
    recurrent = f"{node.op_type} is kept whole: its weights can be stored in fewer bits, it computes in float32"
    computes = recurrent if node.op_type in RECURRENT_GATES else None
    integer = anything or computes or _refused_integer(node)
    reasons = {precision: integer if precision in INTEGER else anything for precision in Precision}
    reasons[Precision.FP16] = reasons[Precision.BF16] = anything or computes
    reasons[Precision.FP32] = None
    return reasons


def _refused(node: ir.Node) -> str | None:
    """Why a layer must keep its weight as it is, or None."""
    for weight in node.inputs[1 : 3 if node.op_type in RECURRENT_GATES else 2]:
        if weight is None or not weight.is_initializer():
            return "its weight is not a constant"
        others = [str(use.node.name) for use in weight.uses() if use.node is not node]
        if others:
            return f"its weight is shared with {others[0]!r}"
        if weight.is_graph_output():
            return "its weight is an output of the model"
        if weight.dtype != ir.DataType.FLOAT:
            return f"its weight is {str(weight.dtype).lower()}, not float32"
    return None


def _refused_integer(node: ir.Node) -> str | None:
    """Why a layer cannot compute in integers, or None."""
    weight, source = node.inputs[1], node.inputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "ConvTranspose":
        return "there is no integer ConvTranspose"
    if source is None or source.is_initializer():
        return "its input is a constant"
    if bias is not None and not bias.is_initializer():
        return "its bias is not a constant"
    if bias is not None and len(bias.uses()) != 1:
        return "its bias is shared"
    if node.op_type == "MatMul" and weight is not None and weight.shape is not None and len(weight.shape) != 2:
        return f"its weight has {len(weight.shape)} axes, not 2"
    if node.op_type == "Gemm":
        return _refused_gemm(node, bias)
    return None


def _refused_gemm(node: ir.Node, bias: ir.Value | None) -> str | None:
    scaled = {name: node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
    for name, factor in scaled.items():
        if factor != 1.0:
            return f"it scales its result ({name} is {factor:g})"
    if node.attributes.get_int("transA", 0):
        return "it transposes its input"
    weight = node.inputs[1]
    if bias is not None and bias.shape is not None and weight is not None and weight.shape is not None:
        channels = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
        sizes = list(bias.shape)
        if sizes != [channels]:
            return f"its bias has shape {tuple(sizes)}, not ({channels},)"
    return None
