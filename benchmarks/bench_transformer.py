"""What a BERT-base-sized network costs: analysis, pruning, int8, a session; seconds, and against ONNX Runtime's own.

Calibration is done once a run and not counted. Each round has other prune ratios, so nothing of a plan is remembered.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import table
from plan_rounds import plan_times, stage_rows

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
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

    def new_plan() -> CompressionPlan:
        prune = {group.name: float(rng.uniform(0.2, 0.4)) for group in groups}
        return CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)}, prune=prune)

    rows = stage_rows(plan_times(compressor, calibration, new_plan, rounds=ROUNDS))
    table(
        f"A new plan for BERT-base, int8, heads and MLPs 20 to 40% pruned; {len(groups)} groups", ("", "ms", ""), rows
    )
    print(f"\nchannel analysis: {analysis * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
