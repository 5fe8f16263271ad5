"""Which blocks of a comparison should count: several rules on the same recorded turns.

    python experiments/timing/block_choice.py [--record SECONDS]

Without ``--record`` it judges what results/turns.npz holds, and writes results/block_choice.csv. A rule **leans** by
how far two models come out apart the same way round when they change places; what they really differ by cancels.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from run import DEPTHS, OWN_CORE, Chain, load

from autocompress.compress.apply import Compressor
from autocompress.core.measurement import TimingPolicy
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.data import load_data
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.calm_blocks import FEWEST_FOR_INTERVAL, Blocks, Level
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

RESULTS = Path(__file__).parent / "results"
POLICY = TimingPolicy()
#: Blocks of one comparison: 10 s of 100 ms, or as many of 20 ms as a search takes.
BLOCKS = {"equal, load": 90, "equal": 90, "int8, 20 ms": 60}
#: Milliseconds of each turn, ``(n_blocks, 2)`` in order of time.
Turns = NDArray[np.float64]


def level(turns: Turns) -> Level:
    found = Level(POLICY.calm_tolerance)
    for first, second in turns.tolist():
        found.add((first, second))
    return found


def outside(turns: Turns) -> Turns:
    """The turns just before and after each block."""
    before, after = np.roll(turns[:, 1], 1), np.roll(turns[:, 0], -1)
    before[0], after[-1] = turns[0, 1], turns[-1, 0]
    return np.stack([before, after], axis=1)


def reference_alone(candidate: Turns, reference: Turns) -> NDArray[np.bool_]:
    own = level(reference)
    near = np.concatenate([reference, outside(reference)], axis=1)
    typical = np.median(near, axis=1) <= own.ms * (1 + own.tolerance)
    return typical & (near.max(axis=1) <= own.ms * (1 + 2 * own.tolerance))


def reference_outside(candidate: Turns, reference: Turns) -> NDArray[np.bool_]:
    own = level(reference)
    return outside(reference).max(axis=1) <= own.ms * (1 + own.tolerance)


def each_alone(candidate: Turns, reference: Turns) -> NDArray[np.bool_]:
    return reference_alone(candidate, reference) & reference_alone(reference, candidate)


def together(candidate: Turns, reference: Turns) -> NDArray[np.bool_]:
    """What the package does, but for a candidate with a slow mode of its own."""
    blocks = Blocks(asdict(POLICY))
    for (a, d), (b, c) in zip(candidate.tolist(), reference.tolist(), strict=True):
        blocks.add([[a], [b], [c], [d]])
    return np.array(blocks.choose().calm)


def always(candidate: Turns, reference: Turns) -> NDArray[np.bool_]:
    return np.ones(len(candidate), bool)


RULES: dict[str, Callable[[Turns, Turns], NDArray[np.bool_]]] = {
    "the reference": reference_alone,
    "the reference, before and after": reference_outside,
    "each model": each_alone,
    "both together": together,
    "always": always,
}


def log_ratio(candidate: Turns, reference: Turns, kept: NDArray[np.bool_]) -> float:
    """NaN where too few blocks are left for an interval."""
    if kept.sum() < FEWEST_FOR_INTERVAL:
        return float("nan")
    return float(np.median(np.log(candidate[kept].mean(axis=1) / reference[kept].mean(axis=1))))


def judged(name: str, candidate: Turns, reference: Turns) -> list[dict[str, object]]:
    # The level of all turns stands for the calm one; it is the same whatever the rule.
    truth = np.log(np.quantile(candidate, 0.1) / np.quantile(reference, 0.1))
    rows = []
    for rule, choose in RULES.items():
        there, back, steady = [], [], []
        for start in range(0, len(candidate) - BLOCKS[name] + 1, BLOCKS[name]):
            a, b = (turns[start : start + BLOCKS[name]] for turns in (candidate, reference))
            there.append(log_ratio(a, b, choose(a, b)))
            back.append(log_ratio(b, a, choose(b, a)))
            calm = reference_alone(a, b)
            at_level = calm.any() and np.median(a[calm]) <= np.quantile(a, 0.2) * (1 + POLICY.calm_tolerance)
            known = np.quantile(b, 0.2) <= np.quantile(reference, 0.1) * 1.1
            steady.append(bool(at_level and known))
        ratios, swapped, quiet = np.array(there), np.array(back), np.array(steady)
        off = ratios[quiet] - truth
        rows.append(
            {
                "turns": name,
                "blocks count by": rule,
                "comparisons": len(ratios),
                "lean": f"{np.nanmean(ratios + swapped) / 2:.4f}",
                "steady": int(quiet.sum()),
                "median off": f"{np.nanmedian(off):.4f}",
                "deviation": f"{np.nanstd(off):.4f}",
            }
        )
        print(rows[-1])
    return rows


def record(candidate: ModelGraph, reference: ModelGraph, block_ms: float, seconds: float) -> tuple[Turns, Turns]:
    runtime = OnnxRuntime(threads=1)
    calls = []
    for graph in (candidate, reference):
        artifact = runtime.build(graph)
        calls.append(artifact.bound_call(artifact.sample()))

    def turn(who: int, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            calls[who]()
            times.append((time.perf_counter() - start) * 1e3)
        return float(np.quantile(times, 0.25))

    repeats = [max(1, round(block_ms / 4 / turn(who, 200))) for who in (0, 1)]
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        order = (1, 0, 0, 1) if len(found[0]) % 2 else (0, 1, 1, 0)
        turn(order[0], 1)
        figures: tuple[list[float], list[float]] = ([], [])
        for who in order:
            figures[who].append(turn(who, repeats[who]))
        for who in (0, 1):
            found[who].append(figures[who])
    return np.array(found[0]), np.array(found[1])


def recorded(seconds: float) -> dict[str, tuple[Turns, Turns]]:
    torch.manual_seed(0)
    chain = load_model(Chain(DEPTHS[1]).eval(), (torch.randn(2, 16, 28, 28),))
    graph = load_graph("demo")
    plan = CompressionPlan(
        skip=tuple(block.name for block in graph.blocks()[1:4]),
        layers={"*": LayerPlan(weight_bits=8, activation_bits=8)},
    )
    compressor = Compressor(graph, dataset=load_data("demo").train)
    small = compressor.finish(compressor.pruned(plan), plan)
    found = {}
    for name, candidate, reference, block_ms in (
        ("equal, load", chain, chain, 100.0),
        ("equal", chain, chain, 100.0),
        ("int8, 20 ms", small, graph, 20.0),
    ):
        with load("load" in name):
            found[name] = record(candidate, reference, block_ms, seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=float, metavar="SECONDS", help="of each pair of models")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {OWN_CORE})
    if arguments.record:
        turns = recorded(arguments.record)
        arrays = {f"{name} {who}": pair[i] for name, pair in turns.items() for i, who in enumerate(("a", "b"))}
        np.savez_compressed(RESULTS / "turns.npz", **{key: value.astype(np.float32) for key, value in arrays.items()})
    with np.load(RESULTS / "turns.npz") as data:
        rows = [
            row
            for name in BLOCKS
            for row in judged(name, data[f"{name} a"].astype(np.float64), data[f"{name} b"].astype(np.float64))
        ]
    with (RESULTS / "block_choice.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
