"""Memory that an inference cannot do without: its weights, and the activations that live at the same time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.plan import CompressionPlan
from autocompress.cost.roofline import OperationEstimate, Roofline
from autocompress.graph.model_graph import ModelGraph


class MemoryEstimate:
    """Estimates peak memory at batch 1; a :class:`~autocompress.core.protocols.CostModel`.

    A lower bound: what a runtime takes for itself, for packed copies of weights and while it loads comes on top.

    Args:
        roofline: tells which values live in which precision on the target.
    """

    def __init__(self, roofline: Roofline) -> None:
        self._roofline = roofline

    def estimate(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Peak memory of ``plan`` applied to ``graph``, ``peak_memory_bytes``; nothing is built.

        Args:
            graph: uncompressed.
            plan: what would be done to it; without ranks, as for :class:`~autocompress.cost.roofline.Roofline`.

        Raises:
            PlanError: the plan does not fit the graph, or the runtime refuses it.
        """
        operations = self._roofline.estimate_layers(graph, plan)
        weights = sum(op.weight_bytes for op in operations)
        activations = peak_activation_bytes(operations)
        return Measurement(
            metric="peak_memory_bytes",
            value=weights + activations,
            unit="bytes",
            provenance=Provenance.ESTIMATED,
            target=self._roofline.target.name,
            runtime=self._roofline.spec.name,
            fingerprint="weights and live activations, a lower bound (not validated)",
            details={
                "estimator": "weights and live activations",
                "validated": False,
                "weight_bytes": weights,
                "activation_bytes": activations,
            },
        )


def peak_activation_bytes(operations: Sequence[OperationEstimate]) -> float:
    """Most bytes of activations that live at once, when operations run in order and a value goes with its last reader.

    Args:
        operations: in the order in which they run.
    """
    last_read: dict[int, int] = {}
    size: dict[int, float] = defaultdict(float)
    for index, op in enumerate(operations):
        # A value that is written nowhere, such as the input, is as large as what its reader reads.
        unwritten = [value for value in op.reads if value not in size]
        for value in unwritten:
            size[value] = max(0.0, op.read_bytes - sum(size[v] for v in op.reads if v not in unwritten))
            size[value] /= len(unwritten)
        for value in op.reads:
            last_read[value] = index
        size[op.writes] = max(size[op.writes], op.written_bytes)
    live, peak = 0.0, 0.0
    alive: set[int] = set()
    for index, op in enumerate(operations):
        for value in (*op.reads, op.writes):
            if value not in alive:
                alive.add(value)
                live += size[value]
        peak = max(peak, live)
        gone = {value for value in alive if last_read.get(value, len(operations)) <= index}
        live -= sum(size[value] for value in gone)
        alive -= gone
    return peak
