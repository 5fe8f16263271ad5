"""What a BERT-base-sized network costs: analysis, pruning, int8, a session; seconds, and against ONNX Runtime's own.

Calibration is done once a run and not counted. Each round has other prune ratios, so nothing of a plan is remembered.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import Stopwatch, milliseconds, ratio, table

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.session import PROVIDER, session_options
from autocompress.zoo.bert import bert_base

ROUNDS = 7


def main() -> None:
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 30522, (2, 128)), np.ones((2, 128), np.float32)
    graph = load_model(bert_base(), (torch.from_numpy(ids), torch.from_numpy(mask)))
    compressor = Compressor(graph, dataset=ArrayDataset([ids, mask]))
    calibration = compressor.calibration(graph)
    fresh = graph.clone()
    started = time.perf_counter()
    groups = [group for group in fresh.groups() if group.prunable]
    analysis = time.perf_counter() - started
    runtime = OnnxRuntime(threads=1)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for _ in range(1 + ROUNDS):
            prune = {group.name: float(rng.uniform(0.2, 0.4)) for group in groups}
            plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)}, prune=prune)
            watch.new_round()
            with watch.stage("prune"):
                pruned = compressor.pruned(plan)
            with watch.stage("quantize"):
                artifact = compressor.finish(pruned, plan, calibration=calibration)
            with watch.stage("build"):
                built = runtime.build(artifact)
            del built
            artifact.save(path)
            with watch.stage("reference"):
                session = onnxruntime.InferenceSession(
                    str(path), session_options(threads=1, spinning=True), providers=[PROVIDER]
                )
            del session
    times = {name: values[1:] for name, values in watch.times().items()}
    reference = times["reference"]
    rows = [
        ("prune", milliseconds(times["prune"]), ratio(times["prune"], reference)),
        ("fold and quantize", milliseconds(times["quantize"]), ratio(times["quantize"], reference)),
        ("session from memory", milliseconds(times["build"]), ratio(times["build"], reference)),
        ("ONNX Runtime, session of the same file", milliseconds(reference), "1"),
    ]
    table(
        f"A new plan for BERT-base, int8, heads and MLPs 20 to 40% pruned; {len(groups)} groups", ("", "ms", ""), rows
    )
    print(f"\nchannel analysis: {analysis * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
