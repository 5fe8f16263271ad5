"""Bytes of the file that a plan would give, without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autocompress.core.errors import PlanError
from autocompress.core.layer import LayerInfo
from autocompress.core.layer_rules import STORED_BITS
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.cost.shares import Shares
from autocompress.graph.model_graph import ModelGraph

#: Names and nodes, in bytes, as files of ResNet-20, ResNet-18 and MobileNetV2 have them; longer names take more.
_BATCH_NORM_BYTES = 540
_INTEGER_LAYER_BYTES = 1800
_UNPACK_BYTES = 200
_STORED_LAYER_BYTES = 350
#: Bytes an output channel: int8 layers get scale and zero point, and their bias becomes int32 with its own.
_INTEGER_CHANNEL_BYTES = 4 + 1 + 4 + 4
_STORED_CHANNEL_BYTES = 4
#: How far the estimate was off at most on those files in any precision, and a little more.
_ERROR = 0.05


class SizeModel:
    """Estimates ``size_bytes``; a :class:`~autocompress.core.protocols.CostModel`."""

    def __init__(self) -> None:
        self._last: tuple[ModelGraph, Shares, Mapping[str, int], int] | None = None

    def estimate(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Bytes of the artifact of ``plan``; ``graph`` is uncompressed.

        Raises:
            PlanError: the plan names what the graph has not, or has what is not estimated yet.
        """
        layers = graph.layers()
        graph.check_plan(plan)
        if plan.ranks or any(found.storage == "sparse" for found in plan.sparsities.values()):
            raise PlanError("The size of low-rank factors and of sparse storage has no estimate yet: compress and see.")
        shares, nbytes, structure = self._parts(graph)
        removed = shares.removed(plan.prune)
        skipped = [block for block in graph.blocks() if block.name in plan.skip]
        gone = {name for block in skipped for name in block.initializers}
        by_weight = {layer.weight: layer for layer in layers}
        total = float(structure)
        for scale in _folded(graph):
            if scale in gone:
                total -= _BATCH_NORM_BYTES
                continue
            # A folded BatchNormalization leaves the bias of the layer before it in place of four vectors.
            total -= _BATCH_NORM_BYTES + 3 * nbytes[scale] * shares.share(scale, removed)
        for name, size in nbytes.items():
            if name in gone:
                continue
            layer = by_weight.get(name)
            kept = size * shares.share(name, removed)
            total += kept if layer is None else _layer_bytes(layer, kept, plan.layer(layer.name))
        return Measurement(
            metric="size_bytes",
            value=round(total),
            unit="bytes",
            provenance=Provenance.ESTIMATED,
            interval=Interval(low=total * (1 - _ERROR), high=total * (1 + _ERROR)),
            fingerprint=f"counted from the plan, within {_ERROR:.0%}",
            details={"estimator": "size"},
        )

    def _parts(self, graph: ModelGraph) -> tuple[Shares, Mapping[str, int], int]:
        if self._last is None or self._last[0] is not graph:
            arrays = graph.initializers
            shares = Shares(graph.groups(), {name: array.shape for name, array in arrays.items()})
            nbytes = {name: int(array.nbytes) for name, array in arrays.items()}
            self._last = (graph, shares, nbytes, max(0, graph.size_bytes() - sum(nbytes.values())))
        return self._last[1:]


def _folded(graph: ModelGraph) -> list[str]:
    """Scale initializers of the BatchNormalizations that are folded into the convolution before them."""
    found = []
    for node in graph.model.graph:
        source = node.inputs[0] if node.inputs else None
        producer = source.producer() if source is not None else None
        if node.op_type == "BatchNormalization" and producer is not None and source is not None:
            scale = str(node.inputs[1].name) if node.inputs[1] is not None else ""
            if producer.op_type == "Conv" and len(source.uses()) == 1 and scale in graph.initializers:
                found.append(scale)
    return found


def _layer_bytes(layer: LayerInfo, kept: float, plan: LayerPlan) -> float:
    """Bytes of a weight, with what its precision adds; ``kept`` are its float32 bytes."""
    stored = STORED_BITS.get(plan.weight_bits, plan.weight_bits)
    total = kept * stored / 32
    channels = layer.weight_shape[0] * kept / (4 * math.prod(layer.weight_shape))
    if plan.activation_bits == 8:
        total += _INTEGER_LAYER_BYTES + _INTEGER_CHANNEL_BYTES * channels
        total += _UNPACK_BYTES if stored < 8 else 0
    elif plan.weight_bits <= 8:
        scales = kept / 4 / plan.block_size if plan.granularity == "block" else channels
        total += _STORED_LAYER_BYTES + _STORED_CHANNEL_BYTES * scales
    return total
