"""``predict``: what a plan would cost, without building it for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocompress.core.errors import TargetError, UserError

if TYPE_CHECKING:
    from autocompress.core.measurement import Measurement
    from autocompress.core.plan import CompressionPlan
    from autocompress.core.target import RuntimeSpec
    from autocompress.evaluate.pricing import PricedLatency
    from autocompress.graph.model_graph import ModelGraph
    from autocompress.loading import Place


def predict(
    model: Any,
    plan: CompressionPlan,
    *,
    target: str,
    runtime: str | None = None,
    measure_seconds: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate latency and size of a plan.

    On this machine latency comes from its price list where that covers the model: the plan's graph is built and run
    once, untimed, to learn its kernels. Otherwise it comes from the target's profile and nothing is run.

    Args:
        model: a model spec, or an ``nn.Module``.
        plan: what would be done to it.
        target: estimates are for it.
        runtime: one of the target's.
        measure_seconds: measure prices of this model for so long first, and keep them for later.
        seed: of which plans are measured.

    Returns:
        ``estimated_latency_ms`` with its interval, ``estimated_size_bytes`` as counted on the plan's graph, the
        uncompressed model's, ``estimator``, ``notes`` on what is not priced, and where the time goes by the profile.

    Raises:
        UserError: the model, plan, target or runtime is wrong, prices of a target that is not attached are asked for,
            or the time was too short to measure them.
    """
    from autocompress.compress.apply import Compressor
    from autocompress.compress.outline import file_bytes, outline
    from autocompress.core.plan import CompressionPlan
    from autocompress.cost.roofline import Roofline
    from autocompress.loading import load_graph, load_place

    place = load_place(target, None, runtime)
    graph = load_graph(model)
    roofline = Roofline(place.target, place.spec)
    # Refused by the uncompressed layers' names, as the user knows them.
    roofline.check(graph, plan)
    compressor = Compressor(graph)
    shaped, rest = outline(compressor, plan)
    notes = _unpriced(plan, place.spec)
    prices = _prices(place, graph, measure_seconds, seed)
    if prices is None:
        latency = roofline.estimate(shaped, rest)
        base = roofline.estimate(graph, CompressionPlan())
        if place.measured:
            notes.append("--measure 60s measures prices on this machine, which estimate far better than its profile")
    else:
        latency = prices.estimate(graph, plan)
        base = prices.estimate(graph, CompressionPlan())
        notes.append("latency is from the price list; layers below show where the profile expects it to go")
        if borrowed := latency.details["families_borrowed"]:
            notes.append(
                f"nothing like {borrowed[0]!r} was measured: it takes the nearest price, which may be far off; "
                "--measure 60s measures more plans"
            )
    return {
        "target": target,
        "runtime": place.spec.name,
        "provenance": latency.provenance.value,
        "estimated_latency_ms": latency.value,
        "estimated_latency_interval_ms": _ends(latency),
        "estimated_uncompressed_latency_ms": base.value,
        "estimated_latency_ratio": latency.value / base.value,
        "estimated_size_bytes": file_bytes(compressor, plan),
        "uncompressed_size_bytes": graph.size_bytes(),
        "estimator": latency.fingerprint,
        "threads": place.spec.threads,
        "notes": notes,
        "layers": [
            {
                "name": op.name,
                "op_type": op.op_type,
                "precision": op.precision.value,
                "estimated_ms": op.ms,
                "of_it_conversion_ms": op.conversion_ms,
                "bound": op.bound,
            }
            for op in roofline.estimate_layers(shaped, rest)
        ],
    }


def _prices(place: Place, graph: ModelGraph, measure_seconds: float | None, seed: int) -> PricedLatency | None:
    """Estimates from this machine's price list; None where it does not cover the model."""
    if not place.measured or place.spec.name != "onnxruntime":
        if measure_seconds is not None:
            raise TargetError(
                f"Prices are measured with ONNX Runtime on this machine, not on {place.target.name} with "
                f"{place.spec.name}: give --target local, or leave --measure out for an estimate from the profile."
            )
        return None
    import numpy as np

    from autocompress.compress.legal import legality
    from autocompress.cost.price_list import FEWEST_PLANS, model_key
    from autocompress.evaluate.pricing import PricedLatency, keep_prices, measure_prices, stored_prices
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
    from autocompress.search.space_builder import build_space, load_template

    runtime = OnnxRuntime(threads=place.spec.threads)
    prices, model = stored_prices(runtime), model_key(graph)
    if measure_seconds is not None:
        space = build_space(graph, place.spec, load_template("default"), legal=legality(graph))
        rng = np.random.default_rng([seed, len(prices.runs)])
        runs, base_ms = measure_prices(graph, space, runtime, place.spec, budget_seconds=measure_seconds, rng=rng)
        prices = keep_prices(runtime, runs, {model: base_ms})
        if not prices.covers(model):
            raise UserError(
                f"In {measure_seconds:g} s {len(runs)} plans were measured, but prices need {FEWEST_PLANS}: "
                "give --measure more time; what was measured is kept."
            )
    return PricedLatency(prices, runtime, place.spec) if prices.covers(model) else None


def _unpriced(plan: CompressionPlan, spec: RuntimeSpec) -> list[str]:
    """What of a plan the estimate of its latency does not see."""
    notes = []
    if any(not (spec.two_to_four and found.label == "2:4") for found in plan.sparsities.values()):
        notes.append(f"zeros save no time: {spec.name} runs sparse layers with the kernels of dense ones")
    if any(layer.dynamic for layer in plan.layers.values()):
        notes.append(
            "ranges found at run time: convolutions took 5 times as long as in float32 (17 times where depthwise), "
            "linear layers half, where that was measured; between layers all is float32"
        )
    return notes


def _ends(measurement: Measurement) -> list[float] | None:
    return None if measurement.interval is None else [measurement.interval.low, measurement.interval.high]
