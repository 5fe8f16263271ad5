"""The demo with its BatchNormalization folded, pruned and not trained: what matching channels' moments wins back.

    python experiments/folded_batch_norm/run.py

Accuracy on the test images, in ONNX Runtime. Beside it, the same network with BatchNormalization, re-estimated.
Writes results/accuracy.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from autocompress.compress.apply import Compressor
from autocompress.compress.fold import fold_batch_norm
from autocompress.core.plan import CompressionPlan
from autocompress.evaluate.data import load_data
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.moments import match_moments, output_moments

RATIOS, IMPORTANCES = (0.1, 0.2, 0.3, 0.4, 0.5), ("l1", "taylor")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    whole, data = load_graph("demo"), load_data("demo")
    assert data.test is not None
    (images,), labels = data.test.batch(np.arange(len(data.test)))
    runtime = OnnxRuntime(threads=1)

    def accuracy(graph: ModelGraph) -> float:
        answers = np.concatenate([runtime.build(graph).run((part,))[0].argmax(1) for part in np.array_split(images, 8)])
        return round(float((answers == labels).mean()), 4)

    graphs = {"folded": fold_batch_norm(whole), "batch_norm": whole}
    moments = {name: output_moments(graph, data.train) for name, graph in graphs.items()}
    compressors = {name: Compressor(graph, dataset=data.train) for name, graph in graphs.items()}
    print("uncompressed", accuracy(whole))
    rows = []
    for importance in IMPORTANCES:
        for ratio in RATIOS:
            plan = CompressionPlan(prune={"*": ratio}, importance=importance)
            row: dict[str, str | float] = {"importance": importance, "ratio": ratio}
            for name, compressor in compressors.items():
                pruned, kept = compressor.pruned(plan), compressor.kept_values(plan)
                row[f"{name}_pruned"] = accuracy(pruned)
                if name == "batch_norm":
                    row["batch_norm_reestimated"] = accuracy(reestimate_batch_norm(pruned, data.train))
                row[f"{name}_matched"] = accuracy(match_moments(pruned, moments[name], data.train, kept))
            print(row, flush=True)
            rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
