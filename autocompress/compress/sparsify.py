"""A graph with zeros where its plan wants them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.sparsity import Mask, block_mask, n_of_m_mask, unstructured_mask
from autocompress.compress.weight_only import output_axis
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.graph.layers import RECURRENT_GATES
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.serializing import mark_sparse

#: Why recurrent layers keep all of their weights.
NO_ZEROS_REASON = "a recurrent layer is kept whole"


def sparsify(graph: ModelGraph, plan: CompressionPlan) -> ModelGraph:
    """Set weights to zero by each layer's sparsity; the same graph where the plan has none.

    Args:
        graph: float32; layers that the plan names and the graph has not are passed over, as they may be skipped.
        plan: its layers' ``sparsity`` is applied.
    """
    wanted = sparse_layers(plan, graph)
    if not wanted:
        return graph
    nodes = {str(node.name): node for node in graph.model.graph}
    arrays = {}
    for layer in graph.layers():
        if layer.name in wanted:
            weight = graph.initializers[layer.weight]
            mask = mask_of(weight, wanted[layer.name], output_axis(nodes[layer.node], weight.ndim))
            arrays[layer.weight] = np.where(mask, weight, weight.dtype.type(0))
    return graph.with_initializers(arrays)


def sparse_layers(plan: CompressionPlan, graph: ModelGraph) -> dict[str, SparsityPlan]:
    """Layers of a graph that the plan makes sparse, ``"*"`` resolved.

    Raises:
        PlanError: a layer named explicitly that is kept whole.
    """
    if not plan.sparsities:
        return {}
    found = {}
    for layer in graph.layers():
        sparsity = plan.layer(layer.name).sparsity
        if sparsity is None:
            continue
        if layer.op_type not in RECURRENT_GATES:
            found[layer.name] = sparsity
        elif layer.name in plan.sparsities:
            raise PlanError(f"Layer {layer.name!r} cannot be sparse: {NO_ZEROS_REASON}.")
    return found


def sparsity_masks(graph: ModelGraph, plan: CompressionPlan) -> dict[str, Mask]:
    """Weight initializer to where it is not zero, for the layers that the plan makes sparse: training keeps to it."""
    if not plan.sparsities:
        return {}
    weights = {layer.name: layer.weight for layer in graph.layers()}
    return {weights[name]: graph.initializers[weights[name]] != 0 for name in sparse_layers(plan, graph)}


def mask_of(weight: NDArray[np.float32], sparsity: SparsityPlan, axis: int = 0) -> Mask:
    """Where a weight stays; ``axis`` is that of its output channels."""
    rows = np.moveaxis(weight, axis, 0)
    if sparsity.pattern == "unstructured":
        mask = unstructured_mask(rows, sparsity.ratio)
    elif sparsity.pattern == "block":
        mask = block_mask(rows, sparsity.ratio, (sparsity.block_rows, sparsity.block_columns))
    else:
        mask = n_of_m_mask(rows, sparsity.n, sparsity.m)
    return np.moveaxis(mask, 0, axis)


def store_sparse(graph: ModelGraph, layers: list[str]) -> ModelGraph:
    """A graph whose file holds the named layers' float32 weights as ONNX sparse initializers."""
    if not layers:
        return graph
    copy = graph.clone()
    weights = {layer.name: layer.weight for layer in copy.layers()}
    for name in layers:
        if name in weights and copy.initializers[weights[name]].dtype == np.float32:
            mark_sparse(copy.model.graph.initializers[weights[name]])
    return copy
