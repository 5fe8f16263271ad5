"""How near prices measured in two minutes come to plans that nobody timed, beside FLOPs, layer sums and the roofline.

python experiments/latency_model/run.py [--seconds 40] [--plans 70] [--models resnet20,resnet18,mobilenet_v2]
python experiments/latency_model/run.py --evaluate

Each model's prices are measured for ``--seconds``, building included; then ``--plans`` random plans that are not among
those are timed with care and compared with what the list says of them. ``--evaluate`` reads what was measured again.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
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
from figure import draw
from nets import NETS

from autocompress.compress.legal import legality
from autocompress.core.kernel import Kernel
from autocompress.core.measurement import TimingPolicy
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.space import SearchSpace
from autocompress.core.target import Precision
from autocompress.cost.price_list import PriceList, model_key
from autocompress.cost.roofline import Roofline
from autocompress.evaluate.pricing import PricedLatency, compressor_for, drafted, measure_prices
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import Place, load_place
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime, OrtArtifact
from autocompress.search.space_builder import build_space, load_template
from autocompress.zoo.resnet import resnet20

RESULTS = Path(__file__).parent / "results"
RAW = RESULTS / "measured.json.gz"
MODELS: dict[str, tuple[Callable[[], torch.nn.Module], int]] = {
    "resnet20": (resnet20, 32),
    "resnet18": (NETS["resnet18"], 224),
    "mobilenet_v2": (NETS["mobilenet_v2"], 224),
}
TRUTH = TimingPolicy(
    block_ms=20.0, shortest_block_ms=8.0, half_width=0.01, max_seconds=1.6, patience=3.0, warmup_seconds=0.1
)
ESTIMATORS = ("price list", "layer sum", "FLOPs", "roofline")
REPEATED = 10
#: A truth whose 95% interval is no wider to each side, relative, is sure.
SURE = 0.03


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


def measure(name: str, place: Place, seconds: float, plans: int, seed: int) -> dict[str, Any]:
    """Prices of one model, then plans that were not among those they come from; JSON values."""
    make, pixels = MODELS[name]
    torch.manual_seed(0)
    graph = load_model(make().eval(), (torch.zeros(2, 3, pixels, pixels),))
    space = build_space(graph, place.spec, load_template("default"), legal=legality(graph))
    runtime = OnnxRuntime()
    designed: list[CompressionPlan] = []
    start = time.monotonic()
    rng = np.random.default_rng([seed, 1])
    runs, base_ms = measure_prices(graph, space, runtime, place.spec, budget_seconds=seconds, rng=rng, plans=designed)
    spent = time.monotonic() - start
    prices = PriceList(device=dict(runtime.describe())).with_runs(runs, {model_key(graph): base_ms})
    latency = PricedLatency(prices, runtime, place.spec)
    roofline = Roofline(place.target, place.spec)
    roofline_base = roofline.estimate(graph, CompressionPlan()).value
    compressor = compressor_for(graph, place.spec)

    def built(plan: CompressionPlan) -> OrtArtifact:
        return runtime.build(drafted(compressor, plan))

    rng = np.random.default_rng([seed, 2])
    base = built(CompressionPlan())
    seen = {plan.digest for plan in designed}
    found: list[dict[str, Any]] = []
    while len(found) < plans:
        plan = random_plan(space, rng)
        if plan.digest in seen:
            continue
        seen.add(plan.digest)
        timings = [runtime.time(built(plan), base, TRUTH) for _ in range(1 + (len(found) < REPEATED))]
        found.append(
            {
                "plan": plan.digest,
                "kernels": [kernel.key for kernel in latency.kernels(graph, plan)],
                "ratios": [timing.ratio for timing in timings],
                "half_width": timings[0].ratio_interval.half_width / timings[0].ratio,
                "calm": bool(timings[0].details["calm"]),
                "counts": counted(graph, plan, compressor).tolist(),
                "roofline": roofline.estimate(graph, plan).value / roofline_base,
            }
        )
    choices = (*space.choices, *space.fixed)
    integers = [c.subject for c in choices if c.kind == "precision" and "int8" in c.options]
    four, eight = (
        built(CompressionPlan(layers=dict.fromkeys(integers, precision.layer_plan)))
        for precision in (Precision.INT4, Precision.INT8)
    )
    return {
        "model": name,
        "seconds": spent,
        "base_ms": base_ms,
        "prices": prices.to_dict(),
        "counts": [counted(graph, plan, compressor).tolist() for plan in designed],
        "plans": found,
        "int4_to_int8": runtime.time(four, eight, TRUTH).ratio,
    }


def evaluate(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Every estimator on the plans that were not seen."""
    prices, base_ms = PriceList.from_dict(raw["prices"]), raw["base_ms"]
    model = prices.runs[0].model
    macs = Macs([(np.array(row), run.ms) for row, run in zip(raw["counts"], prices.runs, strict=True)])
    between = between_layers(prices)
    rows = []
    for item in raw["plans"]:
        kernels = [Kernel.from_key(key) for key in item["kernels"]]
        estimate = prices.estimate(kernels, model)
        interval = estimate.interval
        assert interval is not None
        layers = float(prices.prices.microseconds([k for k in kernels if k.weight]).sum()) * 1e-3
        measured, *again = (ratio * base_ms for ratio in item["ratios"])
        rows.append(
            {
                "model": raw["model"],
                "plan": item["plan"],
                "measured_ms": measured,
                "half_width": item["half_width"],
                "calm": item["calm"],
                "again_ms": again[0] if again else "",
                "price list": estimate.value,
                "low_ms": interval.low,
                "high_ms": interval.high,
                "layer sum": layers + between,
                "FLOPs": macs.estimate(np.array(item["counts"])),
                "roofline": item["roofline"] * base_ms,
                "kernels_measured": estimate.details["kernels_measured"],
                "families_borrowed": len(estimate.details["families_borrowed"]),
            }
        )
    return rows


def between_layers(prices: PriceList) -> float:
    """Milliseconds of the uncompressed model that no layer takes: what a sum over layers can know of the rest."""
    kernels = [Kernel.from_key(key) for key in prices.runs[0].kernels]
    return float(prices.prices.microseconds([k for k in kernels if not k.weight]).sum()) * 1e-3


def summary(rows: list[dict[str, Any]], raw: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an estimator, over all plans and over those whose truth is sure, and what noise alone would give."""
    sure = [row for row in rows if row["half_width"] < SURE]
    return [found for name, own in (("all", rows), ("sure", sure)) for found in _summary(name, own, raw)]


def _summary(name: str, rows: list[dict[str, Any]], raw: dict[str, Any]) -> list[dict[str, Any]]:
    measured = np.array([row["measured_ms"] for row in rows])
    again = np.array([[row["measured_ms"], row["again_ms"]] for row in rows if row["again_ms"] != ""]).reshape(-1, 2)
    # Two readings of one plan differ by sqrt(2) times what each is off.
    floor = np.abs(np.log(again[:, 1] / again[:, 0])) / np.sqrt(2.0)
    inside = [row["low_ms"] <= row["measured_ms"] <= row["high_ms"] for row in rows]
    width = [row["high_ms"] / row["price list"] - 1 for row in rows]
    # A truth has an interval of its own: both together hold the difference where both are right.
    both = [math.hypot(w, row["half_width"]) for w, row in zip(width, rows, strict=True)]
    agree = [abs(math.log(row["price list"] / row["measured_ms"])) <= b for row, b in zip(rows, both, strict=True)]
    found = []
    for estimator in (*ESTIMATORS, "noise floor"):
        priced, noise = estimator == "price list", estimator == "noise floor"
        estimates = measured if noise else np.array([row[estimator] for row in rows])
        errors = floor if noise else np.abs(estimates / measured - 1)
        if not len(errors):
            continue
        found.append(
            {
                "model": rows[0]["model"],
                "set": name,
                "estimator": estimator,
                "plans": len(errors),
                "median": round(float(np.median(errors)), 4),
                "within_5": round(float(np.mean(errors <= 0.05)), 3),
                "within_10": round(float(np.mean(errors <= 0.1)), 3),
                "worst": round(float(errors.max()), 3),
                "spearman": "" if noise else round(float(spearmanr(estimates, measured)[0]), 4),
                "measuring_seconds": "" if noise or estimator == "roofline" else round(raw["seconds"], 1),
                "plans_measured": "" if noise or estimator == "roofline" else len(raw["counts"]),
                "interval": round(float(np.median(width)), 4) if priced else "",
                "interval_covers": round(float(np.mean(inside)), 3) if priced else "",
                "intervals_agree": round(float(np.mean(agree)), 3) if priced else "",
                "truth_half_width": round(float(np.median([row["half_width"] for row in rows])), 4),
                "int4_to_int8": round(raw["int4_to_int8"], 4),
                "base_ms": round(raw["base_ms"], 4),
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--raw", type=Path, default=RAW, help="what was measured, which --evaluate reads again")
    parser.add_argument("--evaluate", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.evaluate:
        place, every = load_place("local"), []
        for name in options.models.split(","):
            print(name, "load before", os.getloadavg(), flush=True)
            every.append(measure(name, place, options.seconds, options.plans, options.seed))
            options.raw.write_bytes(gzip.compress(json.dumps(every).encode(), mtime=0))
    rows, table = [], []
    for raw in json.loads(gzip.decompress(options.raw.read_bytes())):
        found = evaluate(raw)
        rows += found
        table += summary(found, raw)
        for line in table:
            if line["model"] == raw["model"]:
                print(line, flush=True)
    write("plans.csv", rows)
    write("summary.csv", table)
    with (RESULTS / "plans.csv").open(encoding="utf-8") as file:
        draw(list(csv.DictReader(file)), RESULTS / "latency_model.svg")


if __name__ == "__main__":
    main()
