"""ONNX Runtime against TVM, tuned and untuned, on networks of the zoo.

    python experiments/tvm/run.py [--trials 16] [--only NAME ...] [--rounds 6] [--schedules FOLDER]

Writes results/zoo.csv and prints it. Both runtimes get the same file, one thread, batch 1. A round is a turn of TVM,
two of ONNX Runtime and one of TVM; a turn is the median of calm blocks. Ratios are medians over rounds with an
order-statistic interval, so that a slow minute of the machine slows both. Weights and inputs are random; outputs are
compared all the same.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autocompress.compress.apply import Compressor
from autocompress.core.errors import AutocompressError
from autocompress.core.measurement import TimingPolicy
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.protocols import Runtime
from autocompress.evaluate.agreement import agreement_of, tolerance_of
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.tvm import TvmArtifact, TvmRuntime
from autocompress.measure.runtimes.tvm_tuning import Tuning
from autocompress.measure.timing import median_interval
from autocompress.zoo.bert import bert_tiny
from autocompress.zoo.mobilenet import mobilenet_tiny
from autocompress.zoo.mobilenet_v1 import mobilenet_v1_tiny
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_tiny
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.resnext import resnext_tiny
from autocompress.zoo.squeezenet import squeezenet_tiny
from autocompress.zoo.unet import unet_tiny
from autocompress.zoo.vgg import vgg_tiny
from autocompress.zoo.vit import vit_tiny

RESULTS = Path(__file__).parent / "results"
SAMPLES = 16
TURN = TimingPolicy(block_ms=32.0, half_width=0.02, max_seconds=0.6, warmup_seconds=0.1)
PRECISIONS = {
    "fp32": CompressionPlan(),
    "int8": CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)}),
}
Inputs = Callable[[np.random.Generator], list[NDArray[Any]]]
COLUMNS = (
    "network",
    "precision",
    "onnxruntime_ms",
    "tvm_ms",
    "tvm_untuned_ms",
    "tvm_to_onnxruntime",
    "low",
    "high",
    "untuned_to_tuned",
    "kernels",
    "trials",
    "tune_seconds",
    "compile_seconds",
    "integer_layers",
    "layers",
    "difference",
    "agrees",
)


def images(side: int) -> Inputs:
    return lambda rng: [rng.normal(size=(SAMPLES, 3, side, side)).astype(np.float32)]


def tokens(rng: np.random.Generator) -> list[NDArray[Any]]:
    return [rng.integers(0, 40, (SAMPLES, 12)), np.ones((SAMPLES, 12), np.int64)]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "ResNet-20": (lambda: resnet20(3), images(32)),
    "ResNeXt": (resnext_tiny, images(16)),
    "MobileNetV1": (mobilenet_v1_tiny, images(16)),
    "MobileNetV2": (mobilenet_tiny, images(16)),
    "MobileNetV3": (mobilenet_v3_tiny, images(16)),
    "SqueezeNet": (squeezenet_tiny, images(32)),
    "VGG": (vgg_tiny, images(32)),
    "U-Net": (unet_tiny, images(32)),
    "ViT": (vit_tiny, images(16)),
    "BERT": (bert_tiny, tokens),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=16, help="schedules a kernel")
    parser.add_argument("--only", nargs="*", help="networks")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--schedules", type=Path, help="folder of known schedules; the user's cache where left out")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    torch.manual_seed(0)
    rows = []
    for name, (make, inputs) in NETWORKS.items():
        if options.only and name not in options.only:
            continue
        arrays = inputs(np.random.default_rng(0))
        graph = load_model(make().eval(), tuple(arrays))
        for precision, plan in PRECISIONS.items():
            try:
                row = compared(graph, plan, arrays, options.trials, options.rounds, options.schedules)
            except AutocompressError as error:
                print(f"{name} {precision}: {error}", flush=True)
                continue
            rows.append({"network": name, "precision": precision, **row})
            write(rows)
            print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)


def write(rows: Sequence[dict[str, Any]]) -> None:
    """What is known so far."""
    with (RESULTS / "zoo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def compared(
    graph: ModelGraph,
    plan: CompressionPlan,
    arrays: Sequence[NDArray[Any]],
    trials: int,
    rounds: int,
    schedules: Path | None,
) -> dict[str, Any]:
    """One network in one precision; columns as :data:`COLUMNS` without its name."""
    compressor = Compressor(graph, dataset=ArrayDataset(list(arrays)), reduce_range=True)
    artifact = compressor.finish(graph, plan) if plan.layers else graph
    sample = tuple(arrays)
    here = OnnxRuntime(sample=sample)
    tuned = TvmRuntime(sample=sample, tuning=Tuning(trials=trials, transfer=False), schedules=schedules)
    untuned = TvmRuntime(sample=sample, schedules=RESULTS / "no-schedules", worker=tuned.worker)
    try:
        reference, slow = here.build(artifact), untuned.build(artifact)
        started = time.monotonic()
        fast = tuned.build(artifact)
        tune_seconds = time.monotonic() - started
        again = tuned.build(artifact)
        agreement = agreement_of(reference.run(sample), fast.run(sample), tolerance=tolerance_of(plan))
        ratios, ours, theirs = [], [], []
        for _ in range(rounds):
            a, b = turn(tuned, fast), turn(here, reference)
            c, d = turn(here, reference), turn(tuned, fast)
            ours += [a, d]
            theirs += [b, c]
            ratios.append(math.log((a + d) / (b + c)))
        untuned_ms = turn(untuned, slow)
        interval = median_interval(ratios)
        return {
            "onnxruntime_ms": statistics.median(theirs),
            "tvm_ms": statistics.median(ours),
            "tvm_untuned_ms": untuned_ms,
            "tvm_to_onnxruntime": math.exp(statistics.median(ratios)),
            "low": math.exp(interval.low),
            "high": math.exp(interval.high),
            "untuned_to_tuned": untuned_ms / statistics.median(ours),
            **about(fast),
            "tune_seconds": tune_seconds,
            "compile_seconds": sum(again.told["seconds"].values()),
            "difference": agreement.difference,
            "agrees": agreement.holds,
        }
    finally:
        tuned.close()


def turn(runtime: Runtime, artifact: Any) -> float:
    """Milliseconds an inference, from blocks of the model against itself."""
    return statistics.median(runtime.time(artifact, artifact, TURN).kept_candidate_ms)


def about(artifact: TvmArtifact) -> dict[str, Any]:
    layers = artifact.told["layers"]
    return {
        "kernels": len(artifact.told["kernels"]),
        "trials": artifact.schedules["trials"],
        "integer_layers": sum(layer["kernel"] == "int8" for layer in layers),
        "layers": len(layers),
    }


if __name__ == "__main__":
    main()
