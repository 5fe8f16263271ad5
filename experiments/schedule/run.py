"""How the learning rate should fall while a pruned network is healed: a cosine, or a stable rate and a late cool-down.

Two plans of the demo that skip blocks, two seeds each, 40 and 160 steps; int8, accuracy on the 2,000 validation and the
2,000 test images together, and the divergence of the outputs from the uncompressed network's.

    python experiments/schedule/run.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest.mock import patch

import numpy as np

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.protocols import Dataset
from autocompress.evaluate.data import load_data
from autocompress.evaluate.metrics import kl_divergence
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.schedule import trapezoid
from autocompress.recover.staged import StagedHealing

PLANS = {
    "4 blocks": ("layer1.0", "layer1.1", "layer2.1", "layer2.2"),
    "3 blocks": ("layer1.1", "layer1.2", "layer2.2"),
}
INT8 = {"*": LayerPlan(weight_bits=8, activation_bits=8)}


def cosine(step: int, steps: int) -> float:
    """A tenth of the steps up, then half a cosine (Loshchilov and Hutter 2017, equation 5)."""
    rising = round(0.1 * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def main() -> None:
    graph, data = load_graph("demo"), load_data("demo")
    assert data.test is not None
    runtime = OnnxRuntime(threads=2)
    compressor = Compressor(graph, dataset=data.train, reduce_range=True)
    whole = [_outputs(runtime, graph, part) for part in (data.validation, data.test)]
    schedules: dict[str, Callable[[int, int], float]] = {"cosine": cosine, "stable, 1 - sqrt": trapezoid}
    for steps in (40, 160):
        for name, schedule in schedules.items():
            for title, blocks in PLANS.items():
                plan = CompressionPlan(
                    skip=blocks,
                    layers=INT8,
                    distillation=DistillationPlan(steps=steps, learning_rate=0.02, temperature=4.0),
                )
                pruned = compressor.pruned(plan)
                rows = []
                for seed in (0, 1):
                    with patch("autocompress.recover.distill.trapezoid", schedule):
                        healing = StagedHealing(graph, data.train, seed=seed, kept=compressor.kept_values)
                        artifact = compressor.finish(healing.heal(pruned, plan), plan)
                    found = [_outputs(runtime, artifact, part) for part in (data.validation, data.test)]
                    right = [
                        float((y.argmax(1) == part.batch(np.arange(len(part)))[1]).mean())
                        for y, part in zip(found, (data.validation, data.test), strict=True)
                    ]
                    divergence = kl_divergence([np.concatenate(found)], [np.concatenate(whole)])
                    rows.append(f"{50 * sum(right):.2f}% {divergence:.4f}")
                print(f"{steps} steps, without {title}, {name}: {', '.join(rows)}", flush=True)


def _outputs(runtime: OnnxRuntime, graph: ModelGraph, dataset: Dataset) -> np.ndarray:
    (images,), _ = dataset.batch(np.arange(len(dataset)))
    model = runtime.build(graph)
    return np.concatenate([model.run((part,))[0] for part in np.array_split(images, 8)])


if __name__ == "__main__":
    main()
