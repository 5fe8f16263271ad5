"""From a new plan to a session that runs it: ResNet-50, about 30% of the channels gone, every layer int8.

Calibration is done once a run and not counted. Each round has other prune ratios, so nothing of a plan is remembered.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import Stopwatch, milliseconds, ratio, table
from plan_rounds import plan_times, stage_rows

from autocompress.compress.apply import Compressor
from autocompress.compress.calibrate import Calibration
from autocompress.compress.derived import weight_of
from autocompress.compress.weights import WeightCache
from autocompress.core.layer import PruneGroup, kept_channels
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.layers import layer_names
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


def floor_rows(
    compressor: Compressor, calibration: Calibration, groups: list[PruneGroup]
) -> list[tuple[str, str, str]]:
    """What no way of writing the graph can save: the weights' arithmetic, and the session made of what is in memory."""
    runtime, watch, rng = OnnxRuntime(threads=1), Stopwatch(), np.random.default_rng(1)
    cache = WeightCache()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for _ in range(2 + ROUNDS):
            plan = new_plan(groups, rng)
            pruned = compressor.pruned(plan)
            folded = compressor.folded(pruned)
            named = layer_names(folded.model)
            weights = [weight_of(node.inputs[1]) for node in folded.model.graph if str(node.name) in named]
            watch.new_round()
            with watch.stage("weights"):
                for weight in weights:
                    cache.get(weight, 8, 0)
            artifact = compressor.finish(pruned, plan, calibration=calibration)
            artifact.skeleton()
            with watch.stage("session"):
                built = runtime.build(artifact)
            del built
            artifact.save(path)
            with watch.stage("reference"):
                session = onnxruntime.InferenceSession(
                    str(path), session_options(threads=1, spinning=True), providers=[PROVIDER]
                )
            del session
    times = {name: values[2:] for name, values in watch.times().items()}
    reference, both = times["reference"], times["weights"] + times["session"]
    return [
        ("the weights' integers, gathered", milliseconds(times["weights"]), ratio(times["weights"], reference)),
        ("session, its graph serialized before", milliseconds(times["session"]), ratio(times["session"], reference)),
        ("both", milliseconds(both), ratio(both, reference)),
    ]


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
    groups = [group for group in graph.groups() if group.prunable]
    # As during a search: what is loaded by now is not looked through again at each collection.
    gc.collect()
    gc.freeze()
    rows = stage_rows(plan_times(compressor, calibration, lambda: new_plan(groups, rng), rounds=ROUNDS))
    table("A new plan for ResNet-50, int8, about 30% pruned", ("stage", "ms", "of a session of the file"), rows)
    table(
        "What of it is not the graph's",
        ("stage", "ms", "of a session of the file"),
        floor_rows(compressor, calibration, groups),
    )
    floats = sum(array.nbytes for array in graph.initializers.values())
    print(f"\nchannel analysis: {milliseconds(analysis)} ms")
    print(
        f"memory at the peak, in float copies of the weights: {extra_memory(compressor, new_plan(groups, rng), floats)}"
    )
    plan = new_plan(groups, rng)
    compressor.kept(plan)
    with cProfile.Profile() as profile:
        compressor.finish(compressor.pruned(plan), plan, calibration=calibration)
    print("\nOne plan, without its session, under cProfile, by own time:")
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(8)


if __name__ == "__main__":
    main()
