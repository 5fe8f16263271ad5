"""What leaving one thing out does to the demo's outputs: at once, and once the other weights were refitted.

python experiments/option_effects/harm.py --out experiments/option_effects/results/harm.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.evaluate.data import load_data
from autocompress.evaluate.metrics import kl_divergence
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.staged import StagedHealing

SAMPLES = 2000


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    graph, data = load_graph("demo"), load_data("demo")
    (images,), _ = data.validation.batch(range(SAMPLES))
    runtime = OnnxRuntime(threads=2)

    def outputs(of: ModelGraph) -> np.ndarray:
        artifact = runtime.build(of)
        return np.concatenate([artifact.run((part,))[0] for part in np.array_split(images, 10)])

    compressor = Compressor(graph, dataset=data.train)
    healing = StagedHealing(graph, data.train, kept=compressor.kept_values)
    plans = {f"skip {block.name}": CompressionPlan(skip=(block.name,)) for block in graph.blocks()}
    plans |= {f"half of {g.name}": CompressionPlan(prune={g.name: 0.5}) for g in graph.groups() if g.prunable}
    wanted = outputs(graph)
    rows = []
    for name, plan in plans.items():
        pruned = compressor.pruned(plan)
        refitted = healing.heal(pruned, plan.replace(distillation=DistillationPlan(steps=0)))
        at_once, after = (kl_divergence([outputs(of)], [wanted]) for of in (pruned, refitted))
        rows.append({"left out": name, "kl_at_once": round(at_once, 4), "kl_refitted": round(after, 4)})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    print(f"rank correlation {table.kl_at_once.corr(table.kl_refitted, method='spearman'):.2f}")
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
