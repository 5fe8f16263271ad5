"""How far the timer can be trusted: false alarms, small differences found, and a ratio beside a load on and off.

    python experiments/timing/run.py [--runs 40] [--seconds 10] [--only KIND]

Writes results/*.csv and prints a summary. The load is another process on another core: matrix products for 2 s, nothing
for 2 s. This process stays on one core and runs one thread.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autocompress.checkup.machine import NOISE_POLICY
from autocompress.compress.apply import Compressor
from autocompress.core.measurement import PairedTiming, TimingPolicy
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.data import load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.evaluate.latency import CONFIRM
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.calm_blocks import FEWEST_FOR_INTERVAL
from autocompress.measure.order_statistics import correlated_interval
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.probe_nets import residual_net
from autocompress.measure.self_comparison import compare
from autocompress.measure.self_comparison import summary as summary_of
from autocompress.zoo.resnet import resnet20

RESULTS = Path(__file__).parent / "results"
KINDS = ("simulation", "aa", "short-aa", "three-percent", "int8", "spells")
OWN_CORE, LOAD_CORE = 0, 1
#: 34 equal layers against 33: 3.0% more work, but for what a call costs besides its layers.
DEPTHS = (34, 33)
_LOAD = """
import os, sys, time
import numpy as np
os.sched_setaffinity(0, {int(sys.argv[1])})
matrix = np.random.rand(400, 400)
start = time.time()
while os.getppid() == int(sys.argv[2]):
    if (time.time() - start) % 4 < 2:
        matrix @ matrix
    else:
        time.sleep(0.01)
"""


class Chain(nn.Module):
    """Equal 3x3 convolutions, one after the other."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@contextmanager
def load(on: bool) -> Iterator[None]:
    """A load that comes and goes on the other core."""
    if not on:
        yield
        return
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", _LOAD, str(LOAD_CORE), str(os.getpid())], env=env) as process:
        try:
            yield
        finally:
            process.kill()


def row_of(timing: PairedTiming, kind: str, run: int, **more: Any) -> dict[str, Any]:
    interval, machine = timing.ratio_interval, timing.details["machine"]
    return {
        "kind": kind,
        "run": run,
        **more,
        "ratio": f"{timing.ratio:.5f}",
        "low": f"{interval.low:.5f}",
        "high": f"{interval.high:.5f}",
        "blocks": len(timing.kept),
        "kept_share": f"{timing.kept_share:.3f}",
        "tolerance": f"{timing.details['calm_tolerance']:.4f}",
        "calm": timing.details["calm"],
        "reference_ms": f"{timing.details['calm_level_ms']:.5f}",
        "seconds": f"{timing.details['seconds']:.1f}",
        "steal_ticks": machine["steal_ticks"],
        "load": machine["load"],
    }


def series(
    kind: str,
    candidate: ModelGraph,
    reference: ModelGraph,
    *,
    runs: int,
    seconds: float,
    loaded: Sequence[bool],
    as_search: bool = False,
) -> list[dict[str, Any]]:
    """``runs`` comparisons for each state of the load, taken in turn; each with sessions of its own.

    ``as_search`` keeps the reference's session, which knows the calm level of earlier comparisons, halves turns and may
    take twice the time while too little is calm.
    """
    runtime = OnnxRuntime(threads=1)
    policy = TimingPolicy(half_width=0.0, max_seconds=seconds)
    if as_search:
        policy = replace(policy, shortest_block_ms=CONFIRM.shortest_block_ms, patience=2.0)
    shared = runtime.build(reference) if as_search else None
    rows = []
    for run in range(runs):
        for on in loaded:
            with load(on):
                timing = runtime.time(runtime.build(candidate), shared or runtime.build(reference), policy)
            rows.append(row_of(timing, kind, run, load_on=on))
            print(rows[-1], flush=True)
    return rows


def short_series(runs: int) -> list[dict[str, Any]]:
    """`doctor`'s comparisons of a second at most, beside the load; each with sessions of its own."""
    runtime, rows = OnnxRuntime(threads=1), []
    with load(True):
        for run in range(runs):
            (found,) = compare(runtime, residual_net("fp32"), 1, NOISE_POLICY)
            low, high, _ = found["ratio_interval"]
            names = ("rounds", "rounds_kept", "kept_share", "calm", "stopped")
            rows.append(
                {
                    "run": run,
                    "ratio": f"{found['ratio']:.5f}",
                    "low": f"{low:.5f}",
                    "high": f"{high:.5f}",
                    **{name: found[name] for name in names},
                    "seconds": f"{found['seconds']:.2f}",
                    "steal_ticks": found["machine"]["steal_ticks"],
                    "load": found["machine"]["load"],
                }
            )
            print(rows[-1], flush=True)
    return rows


def spells(runs: int) -> list[dict[str, Any]]:
    """One small int8 network against the demo, again and again, as a search times it and in other ways.

    No load of this script's: the neighbours are whoever shares the machine. A run knows the lowest calm level so far.
    """
    graph, data = load_graph("demo"), load_data("demo")
    plan = CompressionPlan(
        skip=tuple(block.name for block in graph.blocks()[1:4]),
        layers={"*": LayerPlan(weight_bits=8, activation_bits=8)},
    )
    compressor = Compressor(graph, dataset=data.train)
    small = compressor.finish(compressor.pruned(plan), plan)
    runtime = OnnxRuntime(threads=1)
    policies = {
        "search": CONFIRM,
        "blocks of 80 ms": replace(CONFIRM, block_ms=80.0),
        "no patience": replace(CONFIRM, patience=1.0),
    }
    baselines = {name: runtime.build(graph) for name in policies}
    rows = []
    for run in range(runs):
        for name, policy in policies.items():
            timing = runtime.time(runtime.build(small), baselines[name], policy)
            rows.append(row_of(timing, name, run))
            print(rows[-1], flush=True)
    return rows


def spells_summary(rows: Sequence[dict[str, Any]]) -> str:
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        logs = np.log([float(row["ratio"]) for row in mine])
        lines.append(
            f"{kind}: {len(mine)} runs, median ratio {np.exp(np.median(logs)):.3f}, 10% to 90% "
            f"{np.exp(np.quantile(logs, 0.1)):.3f} to {np.exp(np.quantile(logs, 0.9)):.3f}, standard deviation "
            f"{logs.std():.3f}, calm {np.mean([row['calm'] for row in mine]):.2f}, "
            f"{np.mean([float(row['seconds']) for row in mine]):.1f} s"
        )
    return "\n".join(lines)


def short_summary(rows: Sequence[dict[str, Any]]) -> str:
    found = summary_of(
        [
            {
                "ratio": float(row["ratio"]),
                "ratio_interval": [float(row["low"]), float(row["high"]), 0.95],
                **{name: row[name] for name in ("calm", "kept_share", "rounds_kept")},
            }
            for row in rows
        ]
    )
    names = ("runs", "told", "false_alarm_share", "false_alarm_interval", "false_difference_share")
    more = ("false_difference_interval", "verdict", "median_half_width", "kept_share")
    return "short-aa: " + ", ".join(f"{name} {found[name]}" for name in (*names, *more))


def simulation(runs: int) -> list[dict[str, Any]]:
    """Coverage of the interval where comparing stops as soon as it is narrow, for several kinds of noise."""
    noises: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "normal": lambda rng, n: rng.normal(0.0, 0.03, n),
        "Student t, 3 degrees": lambda rng, n: rng.standard_t(3, n) * 0.018,
    }
    rows = []
    for name, noise in noises.items():
        for correlation in (0.0, 0.3):
            for half_width in (0.02, 0.01):
                rng = np.random.default_rng(1)
                found = [_stopped(noise(rng, 200), correlation, half_width) for _ in range(runs)]
                rows.append(
                    {
                        "noise": name,
                        "lag-1 correlation": correlation,
                        "half width": half_width,
                        "coverage": f"{np.mean([hit for hit, _ in found]):.3f}",
                        "blocks": f"{np.mean([count for _, count in found]):.1f}",
                        "runs": runs,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def _stopped(values: np.ndarray, correlation: float, half_width: float) -> tuple[bool, int]:
    for index in range(1, len(values)):
        values[index] = correlation * values[index - 1] + math.sqrt(1 - correlation**2) * values[index]
    count = FEWEST_FOR_INTERVAL
    while True:
        low, high = correlated_interval(values[:count].tolist(), 0.975)
        if (high - low) / 2 <= half_width or count == len(values):
            return low <= 0.0 <= high, count
        count += 1


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(kind: str, rows: Sequence[dict[str, Any]]) -> str:
    ratios = np.array([float(row["ratio"]) for row in rows])
    lows, highs = (np.array([float(row[key]) for row in rows]) for key in ("low", "high"))
    kept = np.mean([float(row["kept_share"]) for row in rows])
    text = (
        f"{kind}: {len(rows)} runs, blocks kept {kept:.2f}, half width {np.median((highs - lows) / 2 / ratios):.4f}; "
    )
    if kind == "aa":
        off = np.abs(ratios - 1)
        return text + (
            f"|ratio - 1| at least 1% in {np.mean(off >= 0.01):.3f}, with an interval that excludes 1 in "
            f"{np.mean((off >= 0.01) & ((lows > 1) | (highs < 1))):.3f}; interval excludes 1 in "
            f"{np.mean((lows > 1) | (highs < 1)):.3f}"
        )
    if kind == "three-percent":
        return text + f"found (interval above 1) in {np.mean(lows > 1):.3f}, median ratio {np.median(ratios):.4f}"
    on = np.array([str(row["load_on"]) == "True" for row in rows])
    with_load, without = np.median(ratios[on]), np.median(ratios[~on])
    pairs = np.abs(np.log(ratios[on] / ratios[~on]))
    calm = np.array([str(row["calm"]) == "True" for row in rows])
    both = calm[on] & calm[~on]
    return text + (
        f"median ratio {without:.4f} without, {with_load:.4f} with the load: {with_load / without - 1:+.2%} apart; "
        f"within 3% in {np.mean(pairs <= 0.03):.2f} of pairs, and in {np.sum(pairs[both] <= 0.03)} of the {both.sum()} "
        "where both were calm"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=KINDS)
    arguments = parser.parse_args()
    wanted = (arguments.only,) if arguments.only else KINDS
    torch.manual_seed(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {OWN_CORE})
    x = torch.randn(8, 16, 28, 28)
    if "simulation" in wanted:
        write("simulation", simulation(1000))
    common = {"runs": arguments.runs, "seconds": arguments.seconds}
    if "aa" in wanted or "three-percent" in wanted:
        longer, shorter = (load_model(Chain(depth).eval(), (x[:2],)) for depth in DEPTHS)
        for kind, candidate in (("aa", shorter), ("three-percent", longer)):
            if kind in wanted:
                rows = series(kind, candidate, shorter, loaded=(True,), **common)
                write(kind.replace("-", "_"), rows)
                print(summary(kind, rows))
    if "short-aa" in wanted:
        rows = short_series(max(100, arguments.runs))
        write("short_aa", rows)
        print(short_summary(rows))
    if "int8" in wanted:
        images = torch.randn(32, 3, 32, 32)
        graph = load_model(resnet20(3).eval(), (images[:2],))
        compressor = Compressor(graph, dataset=ArrayDataset([images.numpy()]))
        int8 = compressor.finish(graph, CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)}))
        few = {**common, "runs": max(2, arguments.runs // 4)}
        rows = series("int8", int8, graph, loaded=(False, True), as_search=True, **few)
        write("int8", rows)
        print(summary("int8", rows))
    if "spells" in wanted:
        rows = spells(arguments.runs)
        write("spells", rows)
        print(spells_summary(rows))


if __name__ == "__main__":
    main()
