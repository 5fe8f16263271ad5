"""Latency from a profile alone: every operator takes the longer of its arithmetic and its memory traffic.

The roofline model (Williams, Waterman, Patterson 2009): time = max(operations / attainable rate, bytes / bandwidth),
plus a fixed cost for each kernel. Bytes move once a reader and once a writer; a change of precision between two layers
is a kernel of its own. Where a fit to published latencies ships with the target, its coefficients price the operations
instead (see :mod:`~autocompress.cost.calibrated_roofline`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import PlanError, TargetError
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.plan import DEFAULT, CompressionPlan
from autocompress.core.target import Capability, Precision, RuntimeSpec, Target
from autocompress.cost.calibrated_roofline import CalibratedPrices
from autocompress.cost.run_time_work import RunTimeWork, run_time_work
from autocompress.cost.structure import INTEGER_FOLLOWERS, Operation, Structure
from autocompress.cost.workload import grouped_nodes
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.capabilities import INTEGER, class_capability

#: Assumed where nothing was compared with real latencies.
UNVALIDATED_FACTOR = 2.0
#: Operators whose precision decides which fit an estimate stands on.
COSTLY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_NOTHING_MORE = RunTimeWork()
#: 16 bits in and out of the kernel.
HALVES = frozenset({Precision.FP16, Precision.BF16})
_BYTES: Mapping[Precision, float] = {p: 1.0 if p in INTEGER else 4.0 for p in Precision} | dict.fromkeys(HALVES, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationEstimate:
    """Where the time of one operation goes.

    Args:
        name: the layer's, else the node's.
        op_type: ONNX operator.
        precision: that it computes in.
        ms: milliseconds, conversions of its inputs included.
        conversion_ms: of these, for changing the precision of its inputs.
        weight_bytes: of what it reads besides activations.
        bound: ``compute``, ``memory`` or ``launch``: what most of the time goes to.
        operations: 2 a multiply-accumulate; those that fill up the kernel's channel multiple count, those that a kernel
            for 2:4 skips do not.
        reads: indices of the values it reads, as in :class:`~autocompress.cost.structure.Structure`.
        writes: index of the value it writes.
        read_bytes: of activations, in its precision.
        written_bytes: likewise.
    """

    name: str
    op_type: str
    precision: Precision
    ms: float
    conversion_ms: float
    weight_bytes: float
    bound: str
    operations: float
    reads: tuple[int, ...]
    writes: int
    read_bytes: float
    written_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateError:
    """How far off an estimate may be, and how that is known."""

    estimator: str
    validated: bool
    factor: float
    source: str


class Roofline:
    """Estimates latency at batch 1 from a target's facts; a :class:`~autocompress.core.protocols.CostModel`.

    Args:
        target: its ``memory_bandwidth_gb_per_s`` is needed; ``<runtime>.estimate_error_factor`` says how far estimates
            were off where they were compared with published latencies.
        spec: the runtime on it.

    Raises:
        TargetError: the target has no memory bandwidth.
    """

    def __init__(self, target: Target, spec: RuntimeSpec) -> None:
        bandwidth = target.facts.get("memory_bandwidth_gb_per_s")
        if bandwidth is None or isinstance(bandwidth.value, str) or bandwidth.value <= 0:
            raise TargetError(f"The profile of {target.name!r} has no memory bandwidth, so nothing can be estimated.")
        self.target = target
        self.spec = spec
        self._ms_a_byte = 1e-6 / float(bandwidth.value)
        self._launch_ms = spec.launch_overhead_us * 1e-3
        error = target.facts.get(f"{spec.name}.estimate_error_factor")
        self.validated = error is not None
        self.error_factor = float(error.value) if error is not None else UNVALIDATED_FACTOR
        self.error_source = (
            error.source if error is not None else "not validated: a factor of 2 either way is an assumption"
        )
        self._prices = CalibratedPrices(target, spec)
        self._last: tuple[ModelGraph, Structure] | None = None

    def estimate(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Latency of ``plan`` applied to ``graph``; nothing is built.

        Args:
            graph: uncompressed.
            plan: what would be done to it.

        Raises:
            PlanError: as :meth:`check`, or the plan has ranks: see :func:`autocompress.compress.outline.outline`.
        """
        if plan.ranks:
            name = next(iter(plan.ranks))
            raise PlanError(f"Layer {name!r} has a rank: estimate the graph whose layers are taken apart.")
        operations = self.estimate_layers(graph, plan)
        streamed = self._streamed_ms(operations)
        value = sum(op.ms for op in operations) + streamed
        error = self._error(operations)
        factor = error.factor
        return Measurement(
            metric="latency_ms",
            value=value,
            unit="ms",
            provenance=Provenance.ESTIMATED,
            interval=Interval(low=value / factor, high=value * factor),
            target=self.target.name,
            runtime=self.spec.name,
            fingerprint=f"{error.estimator}, within a factor of {factor:g} ({error.source})",
            details={
                "estimator": error.estimator,
                "validated": error.validated,
                "error_factor": factor,
                "error_source": error.source,
                "threads": self.spec.threads,
                "batch": 1,
                "layer_ms": {op.name: round(op.ms, 6) for op in operations},
                **({"streamed_weights_ms": round(streamed, 6)} if streamed else {}),
            },
        )

    def _error(self, operations: Sequence[OperationEstimate]) -> EstimateError:
        """Error of the fits that the operations use: the widest, and validated only where each has one."""
        if not self._prices:
            return EstimateError(
                estimator="roofline", validated=self.validated, factor=self.error_factor, source=self.error_source
            )
        used = {op.precision for op in operations if op.op_type in COSTLY}
        # What the network computes in besides is float32 between layers of another precision: it follows their fit.
        used = used or {Precision.FP32}
        fits = {precision: self._prices.fit_of(precision) for precision in used}
        missing = sorted(precision for precision, fit in fits.items() if fit is None)
        if missing:
            return EstimateError(
                estimator="calibrated roofline",
                validated=False,
                factor=UNVALIDATED_FACTOR,
                source=f"not validated: no published {missing[0]} latencies were fitted, it is scaled from another "
                "precision by the profile's rates",
            )
        worst = max((fit for fit in fits.values() if fit is not None), key=lambda fit: fit.error_factor)
        source = (
            f"{worst.models} published {worst.precision} models, each held out: median error {worst.median_error:.0%}"
        )
        ranks = "" if worst.spearman is None else f", Spearman {worst.spearman:.2f}"
        return EstimateError(
            estimator="calibrated roofline", validated=True, factor=max(1.25, worst.error_factor), source=source + ranks
        )

    def _streamed_ms(self, operations: Sequence[OperationEstimate]) -> float:
        """Time to bring in weights that do not fit on the chip, once an inference, where the profile says so."""
        cache, rate = (self.target.facts.get(k) for k in ("weight_cache_mb", "overflow_bandwidth_gb_per_s"))
        if cache is None or rate is None:
            return 0.0
        over = sum(op.weight_bytes for op in operations) - float(cache.value) * 2**20
        return max(0.0, over) / float(rate.value) * 1e-6

    def check(self, graph: ModelGraph, plan: CompressionPlan) -> None:
        """Raise :class:`PlanError` where a plan names what the graph has not, or what the runtime refuses."""
        self._precisions(graph, self._structure(graph), plan)

    def estimate_layers(self, graph: ModelGraph, plan: CompressionPlan) -> list[OperationEstimate]:
        """Where the time goes, operation by operation, in topological order; see :meth:`estimate`."""
        structure = self._structure(graph)
        precisions, works = self._precisions(graph, structure, plan)
        removed = structure.shares.removed(plan.prune)
        elements = structure.elements * np.clip(1.0 - structure.value_rows @ removed, 0.0, 1.0)
        first, second = (np.clip(1.0 - rows @ removed, 0.0, 1.0) for rows in structure.work_rows)
        work = first * second
        padding = self._padding(structure, removed, precisions)
        grouped = grouped_nodes(graph) if self._prices else frozenset()
        held: dict[int, Precision] = {}
        converted: set[tuple[int, float]] = set()
        branches, joins = _skipped(graph, plan)
        estimates: list[OperationEstimate] = []
        written_by = {op.writes: op.node for op in structure.operations} if joins else {}
        for index, op in enumerate(structure.operations):
            if op.node in branches:
                held[op.writes] = Precision.FP32
                continue
            if op.node in joins:
                # It passes on the operand that no skipped branch writes.
                kept = next(value for value in op.reads if written_by.get(value) not in branches)
                held[op.writes] = held.get(kept, Precision.FP32)
                continue
            precision = precisions.get(op.name) if op.layer is not None else None
            precision = precision or self._follow(op, held)
            width = _BYTES[precision]
            conversion = 0.0
            for value in op.reads:
                now = _BYTES[held.get(value, Precision.FP32)]
                if now != width and (value, width) not in converted:
                    converted.add((value, width))
                    if not self._prices:
                        conversion += float(elements[value]) * (now + width) * self._ms_a_byte + self._launch_ms
                    elif value in held:
                        # A fit holds what it costs to bring a network's own input in.
                        conversion += self._prices.conversion_ms(precision, float(elements[value]))
            written = 4.0 if op.final else width
            read = sum(float(elements[value]) for value in op.reads)
            weights = op.weights * float(work[index])
            extra = works.get(op.name, _NOTHING_MORE)
            # In elements of the precision: fits know no other width.
            weights *= 1.0 if extra.weight_bytes is None else extra.weight_bytes / width
            share = float(work[index] * padding[index])
            if self._skips_zeros(op, plan):
                # Kept as they are and two bits for the place of each, at twice the rate: NVIDIA's sparse tensor cores.
                weights *= 0.5 + 0.125 / width
                share *= 0.5
            if self._prices:
                activations = read + float(elements[op.writes])
                compute, memory, launch = self._prices.price(
                    op, precision, grouped=grouped, share=share, weights=weights, activations=activations
                )
                ms = compute + memory + launch + conversion
            else:
                compute, launch = self._compute_ms(op, precision, share), self._launch_ms
                memory = (read * width + float(elements[op.writes]) * written + weights * width) * self._ms_a_byte
                ms = max(compute, memory) + launch + conversion
            more = self._more_ms(op, extra, compute, launch, float(work[index]))
            ms += more
            times = {"compute": compute + more, "memory": memory, "launch": launch}
            held[op.writes] = Precision.FP32 if op.final else precision
            estimates.append(
                OperationEstimate(
                    name=op.name,
                    op_type=op.op_type,
                    precision=precision,
                    ms=ms,
                    conversion_ms=conversion,
                    weight_bytes=weights * width,
                    bound=max(times, key=lambda name: times[name]),
                    operations=op.operations * share,
                    reads=op.reads,
                    writes=op.writes,
                    read_bytes=read * width,
                    written_bytes=float(elements[op.writes]) * written,
                )
            )
        return estimates

    def _structure(self, graph: ModelGraph) -> Structure:
        if self._last is None or self._last[0] is not graph:
            self._last = (graph, Structure(graph))
        return self._last[1]

    def _skips_zeros(self, op: Operation, plan: CompressionPlan) -> bool:
        """Whether the runtime's kernels skip the zeros of a layer: 2:4 along inputs that come in fours."""
        if op.layer is None or not self.spec.two_to_four or op.kind == "depthwise":
            return False
        found = plan.layer(op.name).sparsity
        fours = len(op.layer.weight_shape) > 1 and op.layer.weight_shape[1] % 4 == 0
        return found is not None and (found.pattern, found.n, found.m) == ("n:m", 2, 4) and fours

    def _more_ms(self, op: Operation, extra: RunTimeWork, compute: float, launch: float, share: float) -> float:
        """Milliseconds of what a layer's kernel does besides the arithmetic of its precision."""
        if extra is _NOTHING_MORE:
            return 0.0
        peak = self._capability(op, Precision.FP32).peak_gops
        unpacking = extra.operations * share / peak * 1e-6 if peak else 0.0
        return (extra.slower - 1) * compute + unpacking + extra.kernels * launch

    def _precisions(
        self, graph: ModelGraph, structure: Structure, plan: CompressionPlan
    ) -> tuple[dict[str, Precision], dict[str, RunTimeWork]]:
        """Precision of each layer that is not float32, and what its kernel does besides.

        A default of ``"*"`` goes to the layers that may take it.
        """
        graph.check_plan(plan)
        found: dict[str, Precision] = {}
        works: dict[str, RunTimeWork] = {}
        refused = ""
        for op in structure.operations:
            if op.layer is None:
                continue
            layer = plan.layer(op.name)
            # Ranges found at run time leave what is between layers in float32.
            precision = Precision.FP32 if layer.dynamic else Precision.pricing(layer)
            capability = self._capability(op, precision)
            if capability.supported:
                found[op.name] = precision
                extra = run_time_work(op, layer, self.spec)
                if extra is not None:
                    works[op.name] = extra
                continue
            reason = f"{self.spec.name} on {self.target.name} refuses {precision} for layer {op.name!r}"
            refused = refused or f"{reason}: {capability.reason}."
            if op.name in plan.layers:
                raise PlanError(f"{reason}: {capability.reason}.")
        default = plan.layers.get(DEFAULT)
        if refused and default is not None and Precision.pricing(default) not in found.values():
            raise PlanError(refused)
        return found, works

    def _padding(
        self, structure: Structure, removed: NDArray[np.float64], precisions: Mapping[str, Precision]
    ) -> NDArray[np.float64]:
        """``(n_operations,)`` how much longer a layer runs because its width is no multiple of the kernel's."""
        multiples = np.array(
            [self.spec.multiple(precisions.get(op.name, Precision.FP32)) for op in structure.operations], np.float64
        )
        kept = structure.out_channels * np.clip(1.0 - structure.out_rows @ removed, 0.0, 1.0)
        padded = np.ceil(kept / multiples - 1e-9) * multiples
        return np.where(kept > 0, padded / np.maximum(kept, 1e-9), 1.0)

    def _compute_ms(self, op: Operation, precision: Precision, share: float) -> float:
        if op.operations == 0:
            return 0.0
        capability = self._capability(op, precision)
        if capability.peak_gops is None:
            return 0.0
        return op.operations * share / (capability.peak_gops * capability.efficiency) * 1e-6

    def _capability(self, op: Operation, precision: Precision) -> Capability:
        return class_capability(self.spec, op.op_type, op.kind, precision)

    def _follow(self, op: Operation, held: Mapping[int, Precision]) -> Precision:
        """Precision of an operation without a weight: as its inputs are, where it has such a kernel."""
        states = {held.get(value, Precision.FP32) for value in op.reads}
        if len(states) == 1 and states <= HALVES:
            return states.pop()
        if op.op_type in INTEGER_FOLLOWERS and all(state in INTEGER for state in states):
            return Precision.INT8
        return Precision.FP32


def _skipped(graph: ModelGraph, plan: CompressionPlan) -> tuple[set[str], set[str]]:
    """Nodes that go with the skipped blocks, and the Adds that pass on what they get."""
    skipped = [block for block in graph.blocks() if block.name in plan.skip]
    return {node for block in skipped for node in block.nodes}, {block.join for block in skipped}
