"""Latency prices measured on this machine, kept in the cache, and plans estimated from them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import ShapeRanges
from autocompress.core.errors import CandidateError
from autocompress.core.kernel import Kernel
from autocompress.core.measurement import Measurement, TimingPolicy
from autocompress.core.plan import CompressionPlan
from autocompress.core.space import SearchSpace
from autocompress.core.target import RuntimeSpec
from autocompress.cost.price_list import PricedRun, PriceList, model_key
from autocompress.evaluate.price_design import design_plans
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.kept_timings import about_here
from autocompress.measure.runtimes.kernel_profile import profile_kernels
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.store import MeasurementStore

#: Of how kernels are told apart and plans designed, profiled and timed; raised when lists of another way do not fit.
RULE = 3
#: Many plans timed roughly tell more than a few timed well: errors average out in the fit.
POLICY = TimingPolicy(
    block_ms=20.0, shortest_block_ms=8.0, half_width=0.015, max_seconds=0.6, patience=2.5, warmup_seconds=0.05
)
_PROFILE_MS = 250.0
_FEWEST_RUNS, _MOST_RUNS = 6, 120
#: Half of a 95% interval in standard errors.
_NORMAL = 1.96
#: A timing is never trusted further: sessions of one model differ by as much through where their memory lies.
_LEAST_SPREAD = 0.01
_UNCALM = 2.0
#: The uncompressed model's calm level is this quantile of what it took beside each plan.
_CALM = 0.2


class PricedLatency:
    """Estimates plans of one model from a price list; a :class:`~autocompress.core.protocols.CostModel`.

    A plan's graph is built and run once, untimed: the runtime itself tells which kernels it makes of it.

    Args:
        prices: of this machine.
        runtime: that they were measured with.
        spec: says which integers are fast.
    """

    def __init__(self, prices: PriceList, runtime: OnnxRuntime, spec: RuntimeSpec) -> None:
        self.prices = prices
        self._runtime = runtime
        self._spec = spec
        self._last: tuple[ModelGraph, Compressor] | None = None

    def estimate(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """Latency of ``plan`` applied to ``graph``.

        Raises:
            PlanError: the plan does not fit the graph, or the list does not cover it.
            CandidateError: the runtime refuses what the plan makes.
        """
        return self.prices.estimate(self.kernels(graph, plan), model_key(graph))

    def kernels(self, graph: ModelGraph, plan: CompressionPlan) -> tuple[Kernel, ...]:
        """Kernels that the runtime launches for ``plan``."""
        if self._last is None or self._last[0] is not graph:
            self._last = (graph, compressor_for(graph, self._spec))
        return profile_kernels(self._runtime, drafted(self._last[1], plan), runs=0)[1].kernels


def measure_prices(
    graph: ModelGraph,
    space: SearchSpace,
    runtime: OnnxRuntime,
    spec: RuntimeSpec,
    *,
    budget_seconds: float,
    rng: np.random.Generator,
    clock: Callable[[], float] = time.monotonic,
    plans: list[CompressionPlan] | None = None,
) -> tuple[list[PricedRun], float]:
    """Profile and time designed plans of a model, each interleaved with the uncompressed one.

    Args:
        graph: uncompressed.
        space: what a search would choose from; the design is drawn from it.
        runtime: on this machine.
        spec: says which integers are fast.
        budget_seconds: for everything, building too; at least three plans are measured.
        rng: of the design.
        clock: seconds.
        plans: every plan that was measured is added to it.

    Returns:
        What was measured, and the uncompressed model's milliseconds.

    Raises:
        CandidateError: the runtime refuses the uncompressed model.
    """
    start = clock()
    compressor, model = compressor_for(graph, spec), model_key(graph)
    base = runtime.build(drafted(compressor, CompressionPlan()))
    base_call = base.bound_call(base.sample())
    base_call()
    begin = time.perf_counter()
    base_call()
    base_ms = (time.perf_counter() - begin) * 1e3
    repeats = int(np.clip(_PROFILE_MS / base_ms, _FEWEST_RUNS, _MOST_RUNS))
    found: list[dict[str, Any]] = []
    longest = 0.0
    for plan in design_plans(space, rng):
        before = clock()
        if len(found) >= 3 and before + longest > start + budget_seconds:
            break
        try:
            artifact, times = profile_kernels(runtime, drafted(compressor, plan), runs=repeats)
        except CandidateError:
            if not found:
                raise
            continue
        timing = runtime.time(artifact, base, POLICY)
        found.append({"plan": plan, "times": times, "timing": timing})
        longest = max(0.5 * longest, clock() - before)
        if plans is not None:
            plans.append(plan)
    levels = [float(np.median(item["timing"].kept_reference_ms)) for item in found]
    calm = [level for level, item in zip(levels, found, strict=True) if item["timing"].details["calm"]]
    base_ms = float(np.quantile(calm or levels, _CALM))
    runs = []
    for item in found:
        timing = item["timing"]
        spread = timing.ratio_interval.half_width / timing.ratio / _NORMAL
        runs.append(
            PricedRun(
                model=model,
                kernels=tuple(kernel.key for kernel in item["times"].kernels),
                microseconds=tuple(round(float(value), 2) for value in item["times"].calm()),
                ms=timing.ratio * base_ms,
                spread=max(_LEAST_SPREAD, spread) * (1.0 if timing.details["calm"] else _UNCALM),
                plan=item["plan"].digest,
            )
        )
    return runs, base_ms


def compressor_for(graph: ModelGraph, spec: RuntimeSpec) -> Compressor:
    """Applies plans as a search for this runtime would."""
    return Compressor(graph, activation_type=spec.activation_type, reduce_range=spec.reduce_range)


def drafted(compressor: Compressor, plan: CompressionPlan) -> ModelGraph:
    """The graph of a plan in its final operators and shapes, from ranges that no data gave."""
    shape = plan.replace(importance="l1", aggregation=None, distillation=None)
    thin = compressor.pruned(shape)
    return compressor.finish(thin, shape, draft=True, calibration=ShapeRanges(thin))


def stored_prices(runtime: OnnxRuntime) -> PriceList:
    """The price list of this machine from the cache, empty where there is none."""
    key = _key(runtime)
    return _readable(MeasurementStore().read(key), key)


def keep_prices(runtime: OnnxRuntime, runs: Sequence[PricedRun], base_ms: Mapping[str, float]) -> PriceList:
    """Add runs to the list in the cache, for later searches and processes.

    Returns:
        The list with these runs and all that any process kept before.
    """
    key = _key(runtime)
    entry = MeasurementStore().update(key, lambda kept: _readable(kept, key).with_runs(runs, base_ms).to_dict())
    return PriceList.from_dict(entry)


def _key(runtime: OnnxRuntime) -> dict[str, Any]:
    """What prices depend on: another machine, build or rule never hits."""
    about = about_here(threads=runtime.threads, spinning=runtime.spinning)
    return {"metric": "latency prices", "rule": RULE, "device": {**about, **runtime.describe()}}


def _readable(entry: Mapping[str, Any] | None, key: Mapping[str, Any]) -> PriceList:
    if entry is not None:
        with contextlib.suppress(CandidateError):
            return PriceList.from_dict(entry)
    return PriceList(device=key["device"])
