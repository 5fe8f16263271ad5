"""Energy of an inference from arithmetic and traffic alone, where no counter can be read.

Prices are those of M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9:
45 nm at 0.9 V. Newer chips take less for everything, arithmetic more so than memory; what instructions, leakage and the
rest of the board draw is not counted. So the figures rank plans and say little about a battery.
"""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.plan import CompressionPlan
from autocompress.core.target import Precision
from autocompress.cost.roofline import HALVES, Roofline
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.capabilities import INTEGER

#: Picojoules of a multiply-accumulate: a product and a sum, integers summed in 32 bits.
MAC_PJ: Mapping[Precision, float] = {p: 0.2 + 0.1 if p in INTEGER else 3.7 + 0.9 for p in Precision} | dict.fromkeys(
    HALVES, 1.1 + 0.4
)
#: Picojoules a byte: 64 bits from DRAM take 1.3 to 2.6 nJ, from a cache of 1 MB 100 pJ.
DRAM_PJ = (1300.0 + 2600.0) / 2 / 8
CACHE_PJ = 100.0 / 8
#: Between a 45 nm chip and one of today; also about what the figures leave out.
ERROR_FACTOR = 5.0
_SOURCE = "Horowitz, ISSCC 2014 (45 nm); not validated"


class EnergyEstimate:
    """Estimates energy at batch 1; a :class:`~autocompress.core.protocols.CostModel`.

    Weights come from DRAM once an inference, activations from and to a cache.

    Args:
        roofline: tells operations, bytes and precisions on the target.
    """

    def __init__(self, roofline: Roofline) -> None:
        self._roofline = roofline

    def estimate(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Energy of ``plan`` applied to ``graph``, ``energy_mj``; nothing is built.

        Args:
            graph: uncompressed.
            plan: what would be done to it; without ranks, as for :class:`~autocompress.cost.roofline.Roofline`.

        Raises:
            PlanError: the plan does not fit the graph, or the runtime refuses it.
        """
        operations = self._roofline.estimate_layers(graph, plan)
        parts = {
            "arithmetic_mj": sum(op.operations / 2 * MAC_PJ[op.precision] for op in operations) * 1e-9,
            "weights_mj": sum(op.weight_bytes for op in operations) * DRAM_PJ * 1e-9,
            "activations_mj": sum(op.read_bytes + op.written_bytes for op in operations) * CACHE_PJ * 1e-9,
        }
        value = sum(parts.values())
        return Measurement(
            metric="energy_mj",
            value=value,
            unit="mJ",
            provenance=Provenance.ESTIMATED,
            interval=Interval(low=value / ERROR_FACTOR, high=value * ERROR_FACTOR),
            target=self._roofline.target.name,
            runtime=self._roofline.spec.name,
            fingerprint=f"arithmetic and traffic, within a factor of {ERROR_FACTOR:g} ({_SOURCE})",
            details={
                "estimator": "arithmetic and traffic",
                "validated": False,
                "error_factor": ERROR_FACTOR,
                "error_source": _SOURCE,
                "idle": "not counted",
                **parts,
            },
        )
