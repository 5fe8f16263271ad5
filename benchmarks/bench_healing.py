"""Refitting the demo without 25% of its channels in closed form, against training it, in one thread."""

from __future__ import annotations

from common import interleaved, milliseconds, ratio, table

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.evaluate.data import load_data
from autocompress.loading import load_graph
from autocompress.recover.distill import Distiller
from autocompress.recover.reconstruct import Reconstruction

STEPS = 10
ROUNDS = 6


def main() -> None:
    graph, data = load_graph("demo"), load_data("demo")
    plan = CompressionPlan(prune={"*": 0.25})
    compressor = Compressor(graph)
    pruned, kept = compressor.pruned(plan), compressor.kept_values(plan)
    reconstruction = Reconstruction(graph, data.train, threads=1)
    distiller = Distiller(graph, data.train, threads=1)
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


if __name__ == "__main__":
    main()
