"""How many places of a layer's inputs a refit for sensitivities needs: KL of the demo's outputs, and the time.

python experiments/option_effects/rows.py > experiments/option_effects/results/rows.csv
"""

from __future__ import annotations

import time

from autocompress.compress.apply import Compressor
from autocompress.evaluate.data import load_data
from autocompress.evaluate.sensitivity import sensitivities, single_changes
from autocompress.evaluate.single_changes import SingleChanges
from autocompress.hardware.profiles import load_target
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.staged import StagedHealing
from autocompress.search.space_builder import build_space, load_template

#: Least and greatest number of places for each layer.
ROWS = ((8192, 16384), (4096, 8192), (2048, 4096))


def main() -> None:
    graph, data = load_graph("demo"), load_data("demo").train
    space = build_space(graph, load_target("x86-avx2").runtime(), load_template("default"))
    choices = [choice for choice in space.choices if choice.kind in ("ratio", "skip")]
    compressor, runtime = Compressor(graph, dataset=data), OnnxRuntime(threads=2)
    found, seconds = [], []
    for rows in ROWS:
        healing = StagedHealing(graph, data, refit_samples=64, refit_rows=rows, kept=compressor.kept_values)
        changes = SingleChanges(compressor, runtime.build, healing)
        # The uncompressed network runs once for all.
        changes(next(iter(single_changes(choices))))
        started = time.process_time()
        found.append(sensitivities(choices, build=changes, reference=runtime.build(graph), dataset=data, samples=128))
        seconds.append(time.process_time() - started)
    print("choice,option," + ",".join(f"kl_{least}" for least, _ in ROWS))
    for name, options in found[0].items():
        for option, kl in options.items():
            if kl > 0:
                print(f"{name},{option}," + ",".join(f"{some[name][option]:.5f}" for some in found))
    print("cpu_seconds,," + ",".join(f"{value:.1f}" for value in seconds))


if __name__ == "__main__":
    main()
