"""What a plan makes of a graph before anything is trained, calibrated or run: its shapes, and the bytes of its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autocompress.compress.apply import Compressor
from autocompress.compress.calibrate import Calibration
from autocompress.compress.placement import ACTIVATIONS
from autocompress.core.plan import DEFAULT, CompressionPlan, LayerPlan
from autocompress.graph.model_graph import ModelGraph


class ShapeRanges(Calibration):
    """Stands for ranges and means that are not known yet: they decide no shape, no byte count and no kernel.

    What comes out of a Relu or Clip starts at zero, as it would with data: runtimes fuse such activations away.

    Args:
        graph: whose activations are asked for.
    """

    def __init__(self, graph: ModelGraph) -> None:
        means = {}
        for node in graph.model.graph:
            source = node.inputs[0] if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
            shape = None if source is None else graph.value_shape(str(source.name))
            channels = shape[1 if "Conv" in node.op_type else -1] if shape and len(shape) > 1 else None
            if source is not None and channels:
                means[str(source.name)] = np.zeros(channels)
        super().__init__({}, means=means)
        self._positive = {str(node.outputs[0].name) for node in graph.model.graph if node.op_type in ACTIVATIONS}

    def supports(self, method: str) -> bool:
        """Every method gives the same."""
        return True

    def range(self, value: str, method: str = "minmax") -> tuple[float, float]:
        """From zero behind an activation, else around it."""
        return (0.0, 1.0) if value in self._positive else (-1.0, 1.0)


def outline(compressor: Compressor, plan: CompressionPlan) -> tuple[ModelGraph, CompressionPlan]:
    """A graph in the shapes that a plan gives it, and what of the plan is left to price.

    Args:
        compressor: of the uncompressed graph; it remembers what it made, so a search's own serves several estimates.
        plan: where it has no low-rank factors both come back as they are, as prune ratios and skipped blocks are priced
            without building anything.

    Returns:
        The graph with its layers taken apart, narrower and without the skipped blocks; and the plan of its layers, in
        which a factor has the precision of the layer it is part of.

    Raises:
        PlanError: the plan does not fit the graph.
    """
    plan = _as_it_is_applied(compressor, plan)
    if not plan.ranks:
        return compressor.graph, plan
    shape = _without_data(plan)
    thin = compressor.pruned(shape)
    factors = {name: tuple(item.factors) for name, item in compressor.ranks(shape).items()}
    names = {layer.name for layer in thin.layers()}
    layers = {}
    for name, layer in plan.layers.items():
        for part in factors.get(name) or (name,):
            if part in names or part == DEFAULT:
                layers[part] = replace(layer, rank=None, sparsity=None)
    return thin, CompressionPlan(layers=layers, calibrator=plan.calibrator)


def _as_it_is_applied(compressor: Compressor, plan: CompressionPlan) -> CompressionPlan:
    """The plan with float32 for layers that a default of ``"*"`` would reach and the graph does not allow."""
    default = plan.layers.get(DEFAULT)
    if default is None or default.weight_bits == 32:
        return plan
    applied = compressor.layer_plans(plan)
    left = [layer.name for layer in compressor.graph.layers() if layer.name not in {*plan.layers, *applied}]
    whole = replace(LayerPlan(), rank=default.rank, sparsity=default.sparsity)
    return plan.replace(layers={**plan.layers, **dict.fromkeys(left, whole)})


def file_bytes(compressor: Compressor, plan: CompressionPlan) -> int:
    """Bytes of the file that a plan gives: counted on its graph, which is made without data and never run.

    They are those of a file that is calibrated on data, but for ``energy`` ranks where importance reads data: these
    depend on which channels stay. Without data a few bytes of names are less.

    Args:
        compressor: of the uncompressed graph.
        plan: what would be done to it.

    Raises:
        PlanError: the plan does not fit the graph.
    """
    shape = _without_data(plan)
    thin = compressor.pruned(shape)
    return compressor.finish(thin, shape, draft=True, calibration=ShapeRanges(thin)).size_bytes()


def _without_data(plan: CompressionPlan) -> CompressionPlan:
    """Which channels go needs data to know; how many does not."""
    return plan.replace(importance="l1", aggregation=None)
