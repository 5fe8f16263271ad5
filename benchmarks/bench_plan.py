"""From a new plan to a session that runs it: ResNet-50, about 30% of the channels gone, every layer int8.

Calibration is done once a run and not counted. Each round has other prune ratios, so nothing of a plan is remembered.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import Stopwatch, milliseconds, ratio, table

from autocompress.compress.apply import Compressor
from autocompress.core.layer import PruneGroup, kept_channels
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.session import PROVIDER, session_options
from autocompress.zoo.resnet50 import resnet50

ROUNDS = 25
#: Widths are multiples of this, as integer kernels want them.
MULTIPLE = 16


def new_plan(groups: list[PruneGroup], rng: np.random.Generator) -> CompressionPlan:
    prune = {}
    for group in groups:
        kept = kept_channels(group.channels, rng.uniform(0.2, 0.4), MULTIPLE)
        prune[group.name] = 1 - kept / group.channels
    return CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)}, prune=prune)


def extra_memory(compressor: Compressor, plan: CompressionPlan, weight_bytes: int) -> str:
    """Peak of what pruning and finishing allocate, as a share of the model's float weights."""
    calibration = compressor.calibration(compressor.graph)
    tracemalloc.start()
    compressor.finish(compressor.pruned(plan), plan, calibration=calibration)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{peak / weight_bytes:.2f}"


def analysis_ms(model: ModelGraph) -> float:
    graph = model.clone()
    started = time.perf_counter()
    graph.groups()
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    graph = load_model(resnet50(), (torch.zeros(2, 3, 224, 224),))
    analysis = np.array([analysis_ms(graph) / 1e3 for _ in range(9)])
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 224, 224), np.float32)
    compressor = Compressor(graph, dataset=ArrayDataset([images]))
    calibration = compressor.calibration(graph)
    runtime = OnnxRuntime(threads=1)
    groups = [group for group in graph.groups() if group.prunable]
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for _ in range(2 + ROUNDS):
            plan = new_plan(groups, rng)
            watch.new_round()
            with watch.stage("prune"):
                pruned = compressor.pruned(plan)
            with watch.stage("quantize"):
                artifact = compressor.finish(pruned, plan, calibration=calibration)
            with watch.stage("build"):
                built = runtime.build(artifact)
            with watch.stage("size"):
                artifact.size_bytes()
            del built
            artifact.save(path)
            with watch.stage("reference"):
                session = onnxruntime.InferenceSession(
                    str(path), session_options(threads=1, spinning=True), providers=[PROVIDER]
                )
            del session
    times = {name: values[2:] for name, values in watch.times().items()}
    reference = times["reference"]
    whole = times["prune"] + times["quantize"] + times["build"]
    rows = [
        ("prune", milliseconds(times["prune"]), ratio(times["prune"], reference)),
        ("fold and quantize", milliseconds(times["quantize"]), ratio(times["quantize"], reference)),
        ("session from memory", milliseconds(times["build"]), ratio(times["build"], reference)),
        ("bytes of the file, counted", milliseconds(times["size"]), ratio(times["size"], reference)),
        ("plan to session", milliseconds(whole), ratio(whole, reference)),
        ("ONNX Runtime, session of the same file", milliseconds(reference), "1"),
    ]
    table("A new plan for ResNet-50, int8, about 30% pruned", ("stage", "ms", "of a session of the file"), rows)
    floats = sum(array.nbytes for array in graph.initializers.values())
    print(f"\nchannel analysis: {milliseconds(analysis)} ms")
    print(
        f"memory at the peak, in float copies of the weights: {extra_memory(compressor, new_plan(groups, rng), floats)}"
    )


if __name__ == "__main__":
    main()
