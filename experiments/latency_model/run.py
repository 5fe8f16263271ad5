"""How near prices measured in two minutes come to plans that nobody timed, beside FLOPs, layer sums and the roofline.

python experiments/latency_model/run.py [--seconds 40] [--plans 70] [--models resnet20,resnet18,mobilenet_v2]

Each model's prices are measured for ``--seconds``, building included; then ``--plans`` random plans are timed with care
and compared with what the list, fitted before, says of them.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1] / "roofline_validation"))
from nets import NETS

from autocompress.compress.legal import legality
from autocompress.core.measurement import TimingPolicy
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.space import SearchSpace
from autocompress.core.target import Precision
from autocompress.cost.price_list import PricedRun, PriceList, model_key
from autocompress.cost.roofline import Roofline
from autocompress.evaluate.pricing import PricedLatency, compressor_for, drafted, measure_prices
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import Place, load_place
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.search.space_builder import build_space, load_template
from autocompress.zoo.resnet import resnet20

RESULTS = Path(__file__).parent / "results"
MODELS: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "resnet20": (resnet20, 32),
    "resnet18": (NETS["resnet18"], 224),
    "mobilenet_v2": (NETS["mobilenet_v2"], 224),
}
TRUTH = TimingPolicy(block_ms=60.0, half_width=0.01, max_seconds=2.0, warmup_seconds=0.1)
ESTIMATORS = ("price list", "layer sum", "FLOPs", "roofline")
REPEATED = 12


def random_plan(space: SearchSpace, rng: np.random.Generator) -> CompressionPlan:
    """Widths, fp32 | int8 | 4-bit weights by layer, now and then a skipped block: what a search might ask for."""
    choices = (*space.choices, *space.fixed)
    share, deepest = rng.choice([0.0, 1.0, *rng.random(3)]), rng.random()
    layers, prune, skip = {}, {}, []
    for choice in choices:
        options = choice.options
        if choice.kind == "precision" and "int8" in options and rng.random() < share:
            layers[choice.subject] = (Precision.INT8, Precision.INT4)[rng.integers(2)].layer_plan
        elif choice.kind == "ratio":
            prune[choice.subject] = float(rng.choice([float(o) for o in options if float(o) <= deepest]))
        elif choice.kind == "skip" and rng.random() < 0.1:
            skip.append(choice.subject)
    return CompressionPlan(layers=layers, prune=prune, skip=tuple(skip))


class Macs:
    """Multiply-accumulates in float32 and in integers, turned into time by a fit to the plans that were measured."""

    def __init__(self, runs: list[tuple[NDArray[np.float64], float]]) -> None:
        design = np.array([row for row, _ in runs])
        times = np.array([ms for _, ms in runs])
        self._scale = design.max(axis=0)
        self._coefficients, _ = nnls(design / self._scale / times[:, None], np.ones(len(times)))

    def estimate(self, counts: NDArray[np.float64]) -> float:
        return float(counts / self._scale @ self._coefficients)


def counted(graph: ModelGraph, plan: CompressionPlan, compressor: Any) -> NDArray[np.float64]:
    """1, multiply-accumulates in float32, in integers."""
    thin = compressor.pruned(plan)
    kinds = compressor.layer_plans(plan)
    whole, integer = 0, 0
    for layer in thin.layers():
        found: LayerPlan | None = kinds.get(layer.name)
        if found is not None and found.activation_bits == 8:
            integer += layer.macs
        else:
            whole += layer.macs
    return np.array([1.0, whole, integer])


def one_model(name: str, place: Place, seconds: float, plans: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    make, pixels = MODELS[name]
    torch.manual_seed(0)
    graph = load_model(make().eval(), (torch.zeros(2, 3, pixels, pixels),))
    space = build_space(graph, place.spec, load_template("default"), legal=legality(graph))
    runtime = OnnxRuntime()
    designed: list[CompressionPlan] = []
    start = time.monotonic()
    rng = np.random.default_rng(1)
    runs, base_ms = measure_prices(graph, space, runtime, place.spec, budget_seconds=seconds, rng=rng, plans=designed)
    spent = time.monotonic() - start
    model = model_key(graph)
    prices = PriceList(device=dict(runtime.describe())).with_runs(runs, {model: base_ms})
    latency = PricedLatency(prices, runtime, place.spec)
    expected_error = prices.error(model)
    roofline = Roofline(place.target, place.spec)
    compressor = compressor_for(graph, place.spec)
    macs = Macs([(counted(graph, plan, compressor), run.ms) for plan, run in zip(designed, runs, strict=True)])
    between = between_layers(prices, runs)
    base = runtime.build(drafted(compressor, CompressionPlan()))
    roofline_base = roofline.estimate(graph, CompressionPlan()).value
    rng = np.random.default_rng(2026)
    rows = []
    for number in range(plans):
        plan = random_plan(space, rng)
        begin = time.perf_counter()
        estimate = latency.estimate(graph, plan)
        estimate_seconds = time.perf_counter() - begin
        kernels = latency.kernels(graph, plan)
        layer_us = sum(prices.prices.microseconds([k for k in kernels if k.weight]))
        times = [runtime.time(runtime.build(drafted(compressor, plan)), base, TRUTH)]
        if number < REPEATED:
            times.append(runtime.time(runtime.build(drafted(compressor, plan)), base, TRUTH))
        timing = times[0]
        interval = estimate.interval
        assert interval is not None
        rows.append(
            {
                "model": name,
                "plan": plan.digest,
                "measured_ms": timing.ratio * base_ms,
                "half_width": timing.ratio_interval.half_width / timing.ratio,
                "calm": bool(timing.details["calm"]),
                "again_ms": times[1].ratio * base_ms if len(times) > 1 else "",
                "price list": estimate.value,
                "low_ms": interval.low,
                "high_ms": interval.high,
                "layer sum": float(layer_us) * 1e-3 + between,
                "FLOPs": macs.estimate(counted(graph, plan, compressor)),
                "roofline": roofline.estimate(graph, plan).value / roofline_base * base_ms,
                "kernels_measured": estimate.details["kernels_measured"],
                "estimate_seconds": estimate_seconds,
            }
        )
    facts = {"measuring_seconds": spent, "plans_measured": len(runs), "base_ms": base_ms, "expected": expected_error}
    return rows, facts


def between_layers(prices: PriceList, runs: list[PricedRun]) -> float:
    """Milliseconds of the uncompressed model that no layer takes: what a sum over layers can know of the rest."""
    from autocompress.core.kernel import Kernel

    kernels = [Kernel.from_key(key) for key in runs[0].kernels]
    return float(prices.prices.microseconds([k for k in kernels if not k.weight]).sum()) * 1e-3


def summary(rows: list[dict[str, Any]], facts: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    measured = np.array([row["measured_ms"] for row in rows])
    again = np.array([[row["measured_ms"], row["again_ms"]] for row in rows if row["again_ms"] != ""])
    repeat = np.abs(np.log(again[:, 1] / again[:, 0]))
    for estimator in ESTIMATORS:
        estimates = np.array([row[estimator] for row in rows])
        errors = np.abs(estimates / measured - 1)
        found.append(
            {
                "model": rows[0]["model"],
                "estimator": estimator,
                "plans": len(rows),
                "median": round(float(np.median(errors)), 4),
                "within_5": round(float(np.mean(errors <= 0.05)), 3),
                "within_10": round(float(np.mean(errors <= 0.1)), 3),
                "worst": round(float(errors.max()), 3),
                "spearman": round(float(spearmanr(estimates, measured)[0]), 4),
                "measuring_seconds": round(facts["measuring_seconds"], 1) if estimator != "roofline" else 0,
                "plans_measured": facts["plans_measured"] if estimator != "roofline" else 0,
                "interval_promised": round(facts["expected"], 3) if estimator == "price list" else "",
                "truth_half_width": round(float(np.median([row["half_width"] for row in rows])), 4),
                "truth_repeat_error": round(float(np.median(repeat)), 4),
                "truth_repeat_worst": round(float(repeat.max()), 4),
                "truth_calm": round(float(np.mean([row["calm"] for row in rows])), 3),
                "base_ms": round(facts["base_ms"], 4),
            }
        )
    return found


def write(name: str, rows: list[dict[str, Any]]) -> None:
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--plans", type=int, default=70)
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    place = load_place("local")
    rows, table = [], []
    for name in options.models.split(","):
        print(name, "load before", os.getloadavg(), flush=True)
        found, facts = one_model(name, place, options.seconds, options.plans)
        rows += found
        table += summary(found, facts)
        for line in table[-len(ESTIMATORS) :]:
            print(line, flush=True)
        write("plans.csv", rows)
        write("summary.csv", table)


if __name__ == "__main__":
    main()
