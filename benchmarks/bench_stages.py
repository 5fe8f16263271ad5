"""Where one candidate's time goes on the demo: prune, quantize, build, screen, calibrate, score, confirm."""

from __future__ import annotations

import cProfile
import pstats

import numpy as np
from common import Stopwatch, interval, milliseconds, table

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.data import load_data
from autocompress.evaluate.latency import MeasuredLatency
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

ROUNDS = 12
QUICK_SAMPLES = 512


def new_plan(groups: list[str], rng: np.random.Generator) -> CompressionPlan:
    prune = {name: float(rng.choice([0.0, 0.25, 0.5])) for name in groups}
    return CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)}, prune=prune)


def main() -> None:
    data, graph = load_data("demo"), load_graph("demo")
    runtime = OnnxRuntime(threads=1)
    compressor = Compressor(graph, dataset=data.train)
    baseline = runtime.build(graph)
    quality = QualityEvaluator(runtime, data.validation, baseline)
    latency = MeasuredLatency(runtime=runtime, baseline=baseline, reference_ms=1.0, target="local")
    groups = [group.name for group in graph.groups() if group.prunable]
    rng = np.random.default_rng(0)
    watch, profile = Stopwatch(), cProfile.Profile()

    def candidate() -> None:
        plan = new_plan(groups, rng)
        watch.new_round()
        with watch.stage("prune"):
            pruned = compressor.pruned(plan)
        with watch.stage("quantize (draft)"):
            draft = compressor.finish(pruned, plan, draft=True)
            draft.size_bytes()
        with watch.stage("screen latency"):
            screened = latency.screen(draft, plan)
        with watch.stage("calibrate"):
            compressor.calibration(pruned)
        with watch.stage("quantize"):
            artifact = compressor.finish(pruned, plan)
        with watch.stage("build"):
            built = runtime.build(artifact)
        with watch.stage("quick accuracy"):
            quality.score(built, samples=QUICK_SAMPLES)
        with watch.stage("full accuracy"):
            quality.score(built)
        with watch.stage("confirm latency"):
            latency.confirm(artifact, plan, screened)

    for _ in range(2):
        candidate()
    watch = Stopwatch()
    for _ in range(ROUNDS):
        candidate()
    times = watch.times()
    total = np.sum(list(times.values()), axis=0)
    rows = [(name, milliseconds(values), f"{interval(values / total)[0]:.0%}") for name, values in times.items()]
    table("One int8 candidate of the demo", ("stage", "ms", "share"), [*rows, ("all", milliseconds(total), "")])
    profile.enable()
    for _ in range(3):
        candidate()
    profile.disable()
    print("\nThree candidates under cProfile, by own time:")
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
