"""Refitting pruned networks in closed form: time against training, and what it takes in CPU seconds and memory."""

from __future__ import annotations

import multiprocessing
import time

import numpy as np
import torch
from common import interleaved, milliseconds, ratio, table

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.protocols import Dataset
from autocompress.evaluate.data import load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.memory import peak_bytes, resident_bytes
from autocompress.recover.distill import Distiller
from autocompress.recover.reconstruct import Reconstruction
from autocompress.zoo.resnet50 import resnet50

STEPS = 10
ROUNDS = 6
#: Network to the share of its channels that is taken away.
NETWORKS = {"demo": 0.25, "resnet50": 0.3}


def load(name: str) -> tuple[ModelGraph, Dataset]:
    """A network and unlabelled images; those of ResNet-50 are noise, as many as a refit looks at."""
    if name == "demo":
        return load_graph("demo"), load_data("demo").train
    images = np.random.default_rng(0).normal(size=(83, 3, 224, 224)).astype(np.float32)
    return load_model(resnet50(), (torch.zeros(2, 3, 224, 224),)), ArrayDataset([images])


def against_training() -> None:
    """Interleaved, in one thread."""
    graph, data = load("demo")
    plan = CompressionPlan(prune={"*": NETWORKS["demo"]})
    compressor = Compressor(graph)
    pruned, kept = compressor.pruned(plan), compressor.kept_values(plan)
    reconstruction = Reconstruction(graph, data, threads=1)
    distiller = Distiller(graph, data, threads=1)
    healing = DistillationPlan(steps=STEPS, learning_rate=0.02)
    times = interleaved(
        {
            "training": lambda: distiller.heal(pruned, healing, steps=STEPS, kept=kept),
            "refit": lambda: reconstruction.refit(pruned, kept),
        },
        ROUNDS,
    )
    table(
        "Healing, one thread",
        ("healing", f"{STEPS} steps of training", "refit", "ratio"),
        [
            (
                "demo, 25% of channels gone",
                milliseconds(times["training"]),
                milliseconds(times["refit"]),
                ratio(times["refit"], times["training"]),
            )
        ],
    )


def cost(name: str) -> tuple[float, float, float]:
    """CPU seconds of a first refit, with the teacher's run, and of a second; MB at the peak beside what was loaded."""
    graph, data = load(name)
    plan = CompressionPlan(prune={"*": NETWORKS[name]})
    compressor = Compressor(graph)
    pruned, kept = compressor.pruned(plan), compressor.kept_values(plan)
    reconstruction = Reconstruction(graph, data, threads=1)
    before = resident_bytes() or 0
    seconds = []
    for _ in range(2):
        started = time.process_time()
        reconstruction.refit(pruned, kept)
        seconds.append(time.process_time() - started)
    return seconds[0], seconds[1], ((peak_bytes() or 0) - before) / 1e6


def main() -> None:
    against_training()
    rows = []
    for name in NETWORKS:
        # A fresh process: a peak never falls again.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            first, further, memory = pool.apply(cost, (name,))
        rows.append((name, f"{first:.1f}", f"{further:.1f}", f"{memory:.0f}"))
    table("A refit, one thread", ("network", "CPU s of the first", "of a further one", "peak MB"), rows)


if __name__ == "__main__":
    main()
