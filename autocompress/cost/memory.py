"""Peak memory of the process that runs a model, estimated without running it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.plan import CompressionPlan
from autocompress.cost.roofline import OperationEstimate, Roofline
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.capabilities import INTEGER

#: What the estimate is linear in: 1, operations, then bytes: weights of convolutions and of other layers, in floats and
#: in integers, initializers that no layer multiplies with (such as embeddings), activations that live at once.
FEATURES = (
    "fixed", "operations", "float_convolutions", "float_others", "integer_convolutions", "integer_others", "tables",
    "activations",
)  # fmt: skip
#: Bytes for each of FEATURES with ONNX Runtime on CPU, one thread: ``experiments/memory_model`` fitted them.
ONNXRUNTIME_BYTES = (9.27e6, 22_155, 2.61, 1.28, 2.40, 2.12, 1.69, 2.22)
#: 95% of networks whose family was not fitted are within this factor of what was measured there.
ERROR_FACTOR = 1.6
_SOURCE = (
    "84 peaks of 24 networks on x86 with ONNX Runtime 1.31, one thread; families held out: median error 7%, worst 97%"
)
_CONVOLUTIONS = ("Conv", "ConvTranspose")


class MemoryEstimate:
    """Estimates peak memory at batch 1; a :class:`~autocompress.core.protocols.CostModel`.

    For ONNX Runtime a fit to measured peaks: besides weights and activations the runtime takes memory for itself, for
    each operator and for packed copies of weights, and holds the file while it loads it. For other runtimes a lower
    bound: the weights, and the activations that live at the same time.

    Args:
        roofline: tells which values live in which precision on the target.
    """

    def __init__(self, roofline: Roofline) -> None:
        self._roofline = roofline
        self._last: tuple[ModelGraph, float] | None = None

    @property
    def said(self) -> str:
        """How the estimate is made, for a message."""
        if self._fitted:
            return f"a fit to ONNX Runtime's, within a factor of {ERROR_FACTOR:g} for 95% of networks"
        return "weights and live activations, a lower bound"

    def estimate(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Peak memory of ``plan`` applied to ``graph``, ``peak_memory_bytes``; nothing is built.

        Args:
            graph: uncompressed.
            plan: what would be done to it; without ranks, as for :class:`~autocompress.cost.roofline.Roofline`.

        Raises:
            PlanError: the plan does not fit the graph, or the runtime refuses it.
        """
        demand = dict(zip(FEATURES, self.features(graph, plan), strict=True))
        weights = sum(value for name, value in demand.items() if name not in ("fixed", "operations", "activations"))
        value, interval = weights + demand["activations"], None
        details = {"estimator": "weights and live activations", "validated": False}
        fingerprint = "weights and live activations, a lower bound (not validated)"
        if self._fitted:
            value = sum(a * b for a, b in zip(demand.values(), ONNXRUNTIME_BYTES, strict=True))
            interval = Interval(low=value / ERROR_FACTOR, high=value * ERROR_FACTOR)
            details = {
                "estimator": "fitted peak memory",
                "validated": self._measured_here,
                "error_factor": ERROR_FACTOR,
                "error_source": _SOURCE,
            }
            fingerprint = f"fitted peak memory, within a factor of {ERROR_FACTOR:g} ({_SOURCE})"
        return Measurement(
            metric="peak_memory_bytes",
            value=value,
            unit="bytes",
            provenance=Provenance.ESTIMATED,
            interval=interval,
            target=self._roofline.target.name,
            runtime=self._roofline.spec.name,
            fingerprint=fingerprint,
            details={**details, "weight_bytes": weights, "activation_bytes": demand["activations"]},
        )

    def features(self, graph: ModelGraph, plan: CompressionPlan) -> tuple[float, ...]:
        """What a plan's peak memory is made of, as :data:`FEATURES` names it."""
        operations = self._roofline.estimate_layers(graph, plan)
        weights = dict.fromkeys(((integer, conv) for integer in (False, True) for conv in (True, False)), 0.0)
        for op in operations:
            weights[op.precision in INTEGER, op.op_type in _CONVOLUTIONS] += op.weight_bytes
        return (
            1.0,
            float(len(operations)),
            *weights.values(),
            self._table_bytes(graph),
            peak_activation_bytes(operations),
        )

    @property
    def _fitted(self) -> bool:
        return self._roofline.spec.name == "onnxruntime"

    @property
    def _measured_here(self) -> bool:
        """Whether peaks were measured on such a processor: x86-64."""
        target = self._roofline.target
        system = target.facts.get("system")
        return target.name.startswith("x86") or (system is not None and "x86_64" in str(system.value))

    def _table_bytes(self, graph: ModelGraph) -> float:
        """Bytes of initializers that no operation counts among its weights; plans leave them as they are."""
        if self._last is None or self._last[0] is not graph:
            counted = sum(op.weight_bytes for op in self._roofline.estimate_layers(graph, CompressionPlan()))
            held = sum(array.nbytes for array in graph.initializers.values())
            self._last = graph, max(0.0, held - counted)
        return self._last[1]


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
