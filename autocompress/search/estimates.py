"""What a plan costs by the target's profile: rough, cheap, and never shown as a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import outline
from autocompress.core.errors import TargetError
from autocompress.core.plan import DEFAULT, CompressionPlan, LayerPlan
from autocompress.core.target import RuntimeSpec, Target
from autocompress.cost.roofline import Roofline
from autocompress.cost.shares import Shares

#: Metrics that go with the bytes of the file; all others go with time.
_OF_BYTES = frozenset({"size_bytes", "peak_memory_bytes"})

Estimate = Callable[[CompressionPlan], float]


def estimates(
    metrics: Sequence[str], *, compressor: Compressor, target: Target, spec: RuntimeSpec
) -> Mapping[str, Estimate]:
    """A function for each metric from a plan to a figure that is in proportion to its cost, more or less.

    Ranks and sparsity are left out: their factors would have to be computed, and what they save is learned.

    Args:
        metrics: other than quality.
        compressor: of the uncompressed graph.
        target: whose profile is asked.
        spec: of the runtime.

    Returns:
        Functions that raise an :class:`AutocompressError` where a plan has no price; none of time where the profile
        cannot tell it.
    """
    graph = compressor.graph
    layers = graph.layers()
    shares = Shares(graph.groups(), {layer.weight: layer.weight_shape for layer in layers})
    inside = {block.name: frozenset(block.layers) for block in graph.blocks()}

    def size(plan: CompressionPlan) -> float:
        gone = {name for block in plan.skip for name in inside.get(block, ())}
        removed = shares.removed(plan.prune)
        usual = plan.layers.get(DEFAULT, LayerPlan())
        return sum(
            layer.params * shares.share(layer.weight, removed) * plan.layers.get(layer.name, usual).weight_bits / 8
            for layer in layers
            if layer.name not in gone
        )

    found: dict[str, Estimate] = {metric: size for metric in metrics if metric in _OF_BYTES}
    try:
        roofline = Roofline(target, spec)
    except TargetError:
        return found

    def time(plan: CompressionPlan) -> float:
        whole = {name: replace(layer, rank=None, sparsity=None) for name, layer in plan.layers.items()}
        return roofline.estimate(*outline(compressor, plan.replace(layers=whole))).value

    return {**found, **{metric: time for metric in metrics if metric not in _OF_BYTES}}
