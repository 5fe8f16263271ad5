"""Choices of a layer's rank and sparsity, only where they can lower what a run wants lowered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autocompress.compress.legal import legality
from autocompress.compress.low_rank import LayerRank, possible_ranks
from autocompress.compress.sparsify import NO_ZEROS_REASON
from autocompress.core.layer import LayerInfo
from autocompress.core.rank_plan import RankPlan
from autocompress.core.space import NO_ZEROS, WHOLE, Choice
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.core.target import Precision, RuntimeSpec
from autocompress.graph.layers import RECURRENT_GATES
from autocompress.graph.model_graph import ModelGraph
from autocompress.search.refusals import SIZE_ONLY_REASON, Refusals

#: Bytes of a number in an ONNX sparse initializer (float32 and an int64 place), and of the same number in a dense one.
_SPARSE_BYTES, _DENSE_BYTES = 12, 4
#: Bytes of a sparse initializer besides.
_SPARSE_HEADER = 100


def rank_choices(
    graph: ModelGraph, spec: RuntimeSpec, labels: Sequence[str], refused: Refusals, *, latency_counts: bool
) -> list[Choice]:
    """A choice for each layer that some rank makes cheaper.

    Args:
        graph: what is compressed.
        spec: its rate and launch cost decide whether factors save time.
        labels: of the ranks that a template offers, the mildest first.
        refused: where what is not offered is noted.
        latency_counts: whether the run is about time; else fewer multiply-accumulates, so fewer weights, are enough.
    """
    offered: dict[str, list[str]] = {}
    layers = {layer.name: layer for layer in graph.layers()}
    for label in labels:
        for name, found in possible_ranks(graph, RankPlan.from_label(label)).items():
            # Without the numbers, so that layers share a line.
            reason = "its factors would take no fewer multiply-accumulates" if found.macs else found.reason
            reason = found.reason and reason
            if reason is None and latency_counts:
                reason = _slower(layers[name], spec, found)
            if reason is None:
                offered.setdefault(name, []).append(label)
            else:
                refused.add(name, f"rank {label}", reason)
    return [
        Choice(name=f"rank:{name}", kind="rank", subject=name, options=(WHOLE, *options), ordered=True)
        for name, options in offered.items()
    ]


def _slower(layer: LayerInfo, spec: RuntimeSpec, found: LayerRank) -> str | None:
    """Why factors would save no time, by the runtime's attainable rate and the cost of a kernel; None where they do."""
    capability = spec.capability(layer.op_type, Precision.FP32)
    if capability.peak_gops is None or found.macs is None:
        return None
    before, after = found.macs
    saved_us = 2e-3 * (before - after) / (capability.peak_gops * capability.efficiency)
    launches = (2 if found.method == "tucker2" else 1) * spec.launch_overhead_us
    return None if saved_us > launches else "its factors save less arithmetic than their launches cost"


def sparsity_choices(
    graph: ModelGraph,
    spec: RuntimeSpec,
    labels: Sequence[str],
    refused: Refusals,
    *,
    size_counts: bool,
    latency_counts: bool,
) -> list[Choice]:
    """A choice for each layer that some sparsity makes smaller, or faster on a runtime with kernels for it."""
    legal = legality(graph)
    choices = []
    for layer in graph.layers():
        options = []
        for label in labels:
            reason = legal[layer.name][Precision.W8] or _useless(
                layer, spec, SparsityPlan.from_label(label), size_counts=size_counts, latency_counts=latency_counts
            )
            if reason is None:
                options.append(label)
            else:
                refused.add(layer.name, label, reason)
        if options:
            choices.append(
                Choice(name=f"sparsity:{layer.name}", kind="sparsity", subject=layer.name, options=(NO_ZEROS, *options))
            )
    return choices


def _useless(
    layer: LayerInfo, spec: RuntimeSpec, plan: SparsityPlan, *, size_counts: bool, latency_counts: bool
) -> str | None:
    """Why a sparsity makes a layer neither smaller nor faster, or None."""
    if layer.op_type in RECURRENT_GATES:
        return NO_ZEROS_REASON
    if plan.storage == "sparse":
        if not size_counts:
            return SIZE_ONLY_REASON
        size = math.prod(layer.weight_shape)
        kept = plan.n / plan.m if plan.pattern == "n:m" else 1 - plan.ratio
        if _SPARSE_BYTES * kept * size + _SPARSE_HEADER < _DENSE_BYTES * size:
            return None
        return "a sparse file takes 12 bytes a number that stays, for which a dense one takes 4 a number"
    if (plan.pattern, plan.n, plan.m) != ("n:m", 2, 4):
        return "zeros in a dense file take as many bytes, and no kernel skips them: only 'sparse' makes it smaller"
    if not spec.two_to_four:
        return f"{spec.name} has no kernels that skip the zeros of 2:4"
    return None if latency_counts else "it saves time only, and no objective or bound is about latency"
