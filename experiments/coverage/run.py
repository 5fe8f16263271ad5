"""Every network of the zoo through every technique: writes docs/coverage.md and results/coverage.csv.

    python experiments/coverage/run.py [--only NAME ...]

Random weights and inputs: errors tell whether a technique does what it should to a graph, not how good a trained
network would be. Latency is measured with ONNX Runtime, one thread, batch 1, interleaved with the uncompressed network.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.compress.apply import Compressor
from autocompress.core.errors import AutocompressError
from autocompress.core.measurement import TimingPolicy
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.probe import probe_int8
from autocompress.zoo.audio import audio_tiny
from autocompress.zoo.bert import bert_tiny
from autocompress.zoo.convnext import convnext_tiny
from autocompress.zoo.densenet import densenet_tiny
from autocompress.zoo.efficientnet import efficientnet_lite_tiny, efficientnet_tiny
from autocompress.zoo.gpt import gpt_tiny
from autocompress.zoo.inception import inception_tiny
from autocompress.zoo.mobilenet import mobilenet_tiny
from autocompress.zoo.mobilenet_v1 import mobilenet_v1_tiny
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_tiny
from autocompress.zoo.recurrent import gru_tiny, lstm_tiny
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.resnext import resnext_tiny
from autocompress.zoo.senet import senet_tiny
from autocompress.zoo.shufflenet import shufflenet_tiny
from autocompress.zoo.squeezenet import squeezenet_tiny
from autocompress.zoo.unet import unet_tiny
from autocompress.zoo.vgg import vgg_tiny
from autocompress.zoo.vit import vit_split_tiny, vit_tiny
from autocompress.zoo.yolo import yolo_tiny

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 32
POLICY = TimingPolicy(block_ms=32.0, half_width=0.03, max_seconds=0.6, min_blocks=6, warmup_seconds=0.05)
INT8 = LayerPlan(weight_bits=8, activation_bits=8)

PLANS: dict[str, CompressionPlan] = {
    "int8": CompressionPlan(layers={"*": INT8}),
    "50% pruned": CompressionPlan(prune={"*": 0.5}),
    "50% pruned + int8": CompressionPlan(prune={"*": 0.5}, layers={"*": INT8}),
    "4-bit weights, int8": CompressionPlan(layers={"*": LayerPlan(weight_bits=4, activation_bits=8)}),
    "4-bit weights": CompressionPlan(layers={"*": LayerPlan(weight_bits=4)}),
    "float16 weights": CompressionPlan(layers={"*": LayerPlan(weight_bits=16)}),
    "half the rank": CompressionPlan(layers={"*": LayerPlan(rank=RankPlan(ratio=0.5))}),
    "2:4 sparse": CompressionPlan(layers={"*": LayerPlan(sparsity=SparsityPlan(pattern="n:m"))}),
}


def images(side: int) -> Callable[[np.random.Generator], list[NDArray[Any]]]:
    return lambda rng: [rng.normal(size=(SAMPLES, 3, side, side)).astype(np.float32)]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[np.random.Generator], list[NDArray[Any]]]]] = {
    "ResNet-20": (lambda: resnet20(3), images(32)),
    "ResNeXt": (resnext_tiny, images(16)),
    "MobileNetV1": (mobilenet_v1_tiny, images(16)),
    "MobileNetV2": (mobilenet_tiny, images(16)),
    "MobileNetV3": (mobilenet_v3_tiny, images(16)),
    "EfficientNet": (efficientnet_tiny, images(16)),
    "EfficientNet-Lite": (efficientnet_lite_tiny, images(16)),
    "ShuffleNetV2": (shufflenet_tiny, images(16)),
    "SqueezeNet": (squeezenet_tiny, images(16)),
    "DenseNet": (densenet_tiny, images(16)),
    "Inception": (inception_tiny, images(16)),
    "SE-ResNet": (senet_tiny, images(16)),
    "VGG": (vgg_tiny, images(16)),
    "ConvNeXt": (convnext_tiny, images(16)),
    "U-Net": (unet_tiny, images(16)),
    "YOLO head": (yolo_tiny, images(32)),
    "audio, 1-D": (audio_tiny, lambda rng: [rng.normal(size=(SAMPLES, 1, 256)).astype(np.float32)]),
    "ViT, fused qkv": (vit_tiny, images(16)),
    "ViT, split qkv": (vit_split_tiny, images(16)),
    "BERT": (
        bert_tiny,
        lambda rng: [rng.integers(0, 40, (SAMPLES, 12)), np.ones((SAMPLES, 12), np.int64)],
    ),
    "GPT": (gpt_tiny, lambda rng: [rng.integers(0, 24, (SAMPLES, 12))]),
    "LSTM": (lstm_tiny, lambda rng: [rng.normal(size=(SAMPLES, 6, 8)).astype(np.float32)]),
    "GRU": (gru_tiny, lambda rng: [rng.normal(size=(SAMPLES, 6, 8)).astype(np.float32)]),
}


def randomize(net: nn.Module) -> nn.Module:
    """Statistics and scales as uneven as those of a trained network."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def relative_error(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> float:
    """Root of the mean squared error over the root of the mean square, worst output."""
    errors = [
        np.sqrt(np.mean((f - w) ** 2) / max(np.mean(np.square(w)), 1e-12)) for f, w in zip(found, wanted, strict=True)
    ]
    return float(max(errors))


def cover(name: str) -> list[dict[str, Any]]:
    """One row a technique."""
    build, make = NETWORKS[name]
    torch.manual_seed(0)
    inputs = make(np.random.default_rng(0))
    examples: tuple[Tensor, ...] = tuple(torch.from_numpy(x[:2]) for x in inputs)
    graph = load_model(randomize(build()), examples)
    runtime = OnnxRuntime(threads=1, sample=tuple(inputs))
    baseline = runtime.build(graph)
    wanted = baseline.run(tuple(inputs))
    compressor = Compressor(
        graph, dataset=ArrayDataset(inputs), activation_type=probe_int8().activation_type, calibration_samples=SAMPLES
    )
    return [row(name, what, plan, compressor, runtime, baseline, wanted, inputs, graph) for what, plan in PLANS.items()]


def row(
    name: str,
    what: str,
    plan: CompressionPlan,
    compressor: Compressor,
    runtime: OnnxRuntime,
    baseline: Any,
    wanted: Sequence[NDArray[Any]],
    inputs: Sequence[NDArray[Any]],
    graph: ModelGraph,
) -> dict[str, Any]:
    result: dict[str, Any] = {"network": name, "technique": what, "layers": len(graph.layers())}
    try:
        artifact = compressor.finish(compressor.pruned(plan), plan)
        loaded = runtime.build(artifact)
        timing = runtime.time(loaded, baseline, POLICY)
        interval = timing.ratio_interval
        return result | {
            "error": round(relative_error(loaded.run(tuple(inputs)), wanted), 5),
            "size_ratio": round(artifact.size_bytes() / graph.size_bytes(), 4),
            "latency_ratio": round(timing.ratio, 3),
            "latency_ratio_low": round(interval.low, 3),
            "latency_ratio_high": round(interval.high, 3),
            "reason": "",
        }
    except AutocompressError as error:
        return result | {"reason": str(error)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a network a row, a technique a column; error, size and latency, each as a share of the uncompressed."""
    lines = ["| network | " + " | ".join(PLANS) + " |", "|---|" + "---|" * len(PLANS)]
    for name in dict.fromkeys(str(r["network"]) for r in rows):
        cells = []
        for what in PLANS:
            found = next(r for r in rows if r["network"] == name and r["technique"] == what)
            if found["reason"]:
                cells.append(f"refused: {found['reason']}")
            else:
                cells.append(f"{found['error']:.2g} / {found['size_ratio']:.2f} / {found['latency_ratio']:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept(path: Path, *, but: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of an earlier run for the other networks."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] in NETWORKS and row["network"] not in but]
    numbers = ("error", "size_ratio", "latency_ratio")
    return [{k: float(v) if k in numbers and v else v for k, v in row.items()} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    chosen = parser.parse_args().only
    rows: list[dict[str, Any]] = []
    for name in chosen:
        rows += cover(name)
        print(table([r for r in rows if r["network"] == name]).splitlines()[-1], flush=True)
    results = ROOT / "experiments/coverage/results"
    results.mkdir(exist_ok=True)
    rows = sorted(
        rows + kept(results / "coverage.csv", but=chosen), key=lambda row: list(NETWORKS).index(row["network"])
    )
    keys = list(dict.fromkeys(key for r in rows for key in r))
    with (results / "coverage.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)
    text = f"""# Coverage

Made by `python experiments/coverage/run.py`, some networks later than others with `--only`; figures with intervals are
in `experiments/coverage/results/coverage.csv`.

Each cell: error of the outputs (root mean square, relative) / size / latency, the last two as a share of the
uncompressed network's. The networks are compact and have random weights, so an error says what a technique does to the
numbers, not what a healed network would lose. Latency is measured on one thread of the machine that made this page, for
one sample, interleaved; for networks this small it says no more than whether a technique slows them down. Sparse
weights run at dense speed in ONNX Runtime: they save bytes or nothing.

{table(rows)}
"""
    (ROOT / "docs/coverage.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
