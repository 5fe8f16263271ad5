"""The demo with channels or blocks gone, and what refitting its layers in closed form wins back.

    python experiments/reconstruction/run.py

Accuracy on the test images, in ONNX Runtime; also with BatchNormalization folded, as most .onnx files have it. Writes
results/accuracy.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from autocompress.compress.apply import Compressor
from autocompress.compress.fold import fold_batch_norm
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.evaluate.data import load_data
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.staged import StagedHealing

RATIOS, SKIPPED = (0.25, 0.375, 0.5), (2, 4)
STEPS = (0, 40)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    whole, data = load_graph("demo"), load_data("demo")
    assert data.test is not None
    (images,), labels = data.test.batch(np.arange(len(data.test)))
    runtime = OnnxRuntime(threads=1)

    def accuracy(graph: ModelGraph) -> float:
        answers = np.concatenate([runtime.build(graph).run((part,))[0].argmax(1) for part in np.array_split(images, 8)])
        return round(float((answers == labels).mean()), 4)

    blocks = [block.name for block in whole.blocks()]
    plans = {f"channels {ratio:.1%}": CompressionPlan(prune={"*": ratio}, importance="taylor") for ratio in RATIOS}
    plans |= {f"{count} blocks": CompressionPlan(skip=tuple(blocks[1 : 1 + count])) for count in SKIPPED}
    print("uncompressed", accuracy(whole))
    rows = []
    for name, graph in {"as it is": whole, "folded": fold_batch_norm(whole)}.items():
        compressor = Compressor(graph, dataset=data.train)
        healing = StagedHealing(graph, data.train, kept=compressor.kept_values)
        for gone, plan in plans.items():
            pruned = compressor.pruned(plan)
            row: dict[str, str | float] = {"batch_norm": name, "gone": gone, "pruned": accuracy(pruned)}
            for steps in STEPS:
                for reconstruct in (False, True):
                    way = DistillationPlan(steps=steps, learning_rate=0.02, reconstruct=reconstruct)
                    healed = healing.heal(pruned, plan.replace(distillation=way))
                    row[f"{'refitted' if reconstruct else 'statistics'}, {steps} steps"] = accuracy(healed)
            print(row, flush=True)
            rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
