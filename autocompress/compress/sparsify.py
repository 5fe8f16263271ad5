"""A graph with zeros where its plan wants them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.sparsity import Mask, block_mask, n_of_m_mask, unstructured_mask
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
    weights = {layer.name: layer.weight for layer in graph.layers()}
    arrays = {}
    for name, sparsity in wanted.items():
        weight = graph.initializers[weights[name]]
        arrays[weights[name]] = np.where(mask_of(weight, sparsity), weight, weight.dtype.type(0))
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
    weights = {layer.name: layer.weight for layer in graph.layers()}
    return {weights[name]: graph.initializers[weights[name]] != 0 for name in sparse_layers(plan, graph)}


def mask_of(weight: NDArray[np.float32], sparsity: SparsityPlan) -> Mask:
    """Where a weight of shape ``(out, in, ...)`` stays."""
    if sparsity.pattern == "unstructured":
        return unstructured_mask(weight, sparsity.ratio)
    if sparsity.pattern == "block":
        return block_mask(weight, sparsity.ratio, (sparsity.block_rows, sparsity.block_columns))
    return n_of_m_mask(weight, sparsity.n, sparsity.m)


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
