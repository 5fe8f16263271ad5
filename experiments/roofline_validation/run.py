"""Compare the roofline with latencies published for Jetson Nano and with ONNX Runtime on this machine.

python experiments/roofline_validation/run.py jetson-nano
python experiments/roofline_validation/run.py local
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from nets import NETS

from autocompress.compress.calibrate import calibrate
from autocompress.compress.fold import fold_batch_norm
from autocompress.compress.quantize import quantize
from autocompress.core.plan import CompressionPlan
from autocompress.core.target import Precision
from autocompress.cost.roofline import Roofline
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import load_target, local_target

RESULTS = Path(__file__).parent / "results"
#: Name, pixels, milliseconds in float16 with TensorRT, whether the profile was fitted to it.
#: Sources: NVIDIA-AI-IOT/torch2trt docs/benchmarks/jetson_nano.md; MobileNetV2 from NVIDIA's announcement of the board.
JETSON_NANO = [
    ("resnet18", 224, 11.4, True),
    ("resnet34", 224, 20.2, False),
    ("resnet101", 224, 51.1, False),
    ("vgg11", 224, 55.1, True),
    ("vgg13", 224, 68.7, False),
    ("squeezenet1_0", 224, 7.6, True),
    ("squeezenet1_1", 224, 4.34, False),
    ("alexnet", 224, 14.7, True),
    ("mobilenet_v2", 300, 15.62, True),
]
LOCAL = ("mobilenet_v1", "mobilenet_v2", "resnet18", "resnet50", "squeezenet1_0", "squeezenet1_1")


class RandomData:
    """A few random images."""

    name = "random"
    labelled = False

    def __init__(self) -> None:
        self.images = np.random.default_rng(0).standard_normal((4, 3, 224, 224), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Any) -> tuple[tuple[np.ndarray, ...], None]:
        return (self.images[np.asarray(indices)],), None


def load(name: str, pixels: int = 224) -> ModelGraph:
    return load_model(NETS[name]().eval(), (torch.zeros(1, 3, pixels, pixels),))


def uniform(precision: str) -> CompressionPlan:
    return CompressionPlan(layers={"*": Precision(precision).layer_plan} if precision != "fp32" else {})


def best_ms(model: bytes, image: np.ndarray, seconds: float = 3.0) -> float:
    """The fastest inference with one thread: what the machine does when nothing disturbs it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image}
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def jetson_nano() -> list[dict[str, Any]]:
    target = load_target("jetson-nano")
    rows = []
    for name, pixels, published, fitted in JETSON_NANO:
        estimate = Roofline(target, target.runtime("tensorrt")).estimate(load(name, pixels), uniform("fp16")).value
        rows.append(row(name, "fp16", published, estimate, fitted))
    return rows


def local() -> list[dict[str, Any]]:
    target, data = local_target(), RandomData()
    rows = []
    for name, precision in [(name, precision) for name in LOCAL for precision in ("fp32", "int8")]:
        graph = load(name)
        ready = fold_batch_norm(graph)
        if precision == "int8":
            plans = {layer.name: Precision.INT8.layer_plan for layer in ready.layers()}
            ready = quantize(ready, plans, calibrate(ready, data, samples=4, batch_size=4))
        measured = best_ms(ready.to_bytes(), data.images[:1])
        estimate = Roofline(target, target.runtime()).estimate(graph, uniform(precision)).value
        rows.append(row(name, precision, measured, estimate, fitted=True))
    return rows


def row(name: str, precision: str, real: float, estimate: float, fitted: bool) -> dict[str, Any]:
    return {
        "model": name,
        "precision": precision,
        "real_ms": round(real, 3),
        "estimated_ms": round(estimate, 3),
        "ratio": round(estimate / real, 3),
        "fitted": fitted,
    }


if __name__ == "__main__":
    which = sys.argv[1] if len(sys.argv) > 1 else "jetson-nano"
    table = {"jetson-nano": jetson_nano, "local": local}[which]()
    with (RESULTS / f"{which}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    for line in table:
        print(line)
