"""How far off latencies of plans not tried yet are: by the profile alone, and corrected by what a run had measured.

    python experiments/option_effects/latency.py RUN [RUN ...] --out experiments/option_effects/results/latency.csv

Each run folder of the demo is cut after so many trials; plans that came afterwards are predicted from those before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from autocompress.compress.apply import Compressor
from autocompress.core.objective import Objective
from autocompress.core.trial import TrialState
from autocompress.hardware.profiles import load_target
from autocompress.loading import load_graph
from autocompress.outcome import read_space
from autocompress.search.aim import Aim
from autocompress.search.effect_priors import cost_prior
from autocompress.search.estimates import estimates
from autocompress.search.known_points import KnownPoint, KnownPoints
from autocompress.search.option_effects import Effects, Terms, stacked
from autocompress.search.recipes import anchor
from autocompress.store.optuna_store import read_trials
from autocompress.store.run_dir import RunFolder

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
CUTS = (25, 40)
NOISE = 0.05


def rows(folder: Path) -> list[dict[str, object]]:
    """One row a cut."""
    graph = load_graph("demo")
    run = RunFolder.read(folder)
    space = read_space(run)
    target = load_target("local")
    costs = estimates(["latency_ms"], compressor=Compressor(graph), target=target, spec=target.runtime())
    terms = Terms(space, anchor(space, graph).assignment)
    points = KnownPoints(space, terms, costs, OBJECTIVES, ())
    trials = read_trials(run.study)
    found = []
    for cut in CUTS:
        before = trials[:cut]
        aim = Aim.of([t for t in before if t.state is TrialState.COMPLETE], OBJECTIVES[0], ())
        known = points.of(before, aim)
        digests = {trial.plan.replace(distillation=None).digest for trial in before}
        later = [t for t in trials[cut:] if t.plan.replace(distillation=None).digest not in digests]
        unseen = points.of(later, aim)
        logs = np.array([np.log(p.costs[0]) - p.estimated[0] for p in known])
        effects = Effects(
            cost_prior(terms), stacked(terms, [p.assignment for p in known]), logs, np.full(len(logs), NOISE)
        ).mean()
        scale = float(np.median(logs))
        truth = np.array([p.costs[0] for p in unseen])
        alone = np.array([np.exp(p.estimated[0] + scale) for p in unseen])
        corrected = np.array([_corrected(p, terms, effects) for p in unseen])
        row: dict[str, object] = {"run": folder.name, "after": cut, "unseen": len(unseen)}
        for name, predicted in (("profile", alone), ("corrected", corrected)):
            row[f"{name}_error"] = round(float(np.median(np.abs(predicted / truth - 1.0))), 4)
            row[f"{name}_spearman"] = round(float(spearmanr(predicted, truth)[0]), 3)
        found.append(row)
    return found


def _corrected(point: KnownPoint, terms: Terms, effects: np.ndarray) -> float:
    return float(np.exp(point.estimated[0] + effects[0] + terms.row(point.assignment) @ effects[1:]))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = pd.DataFrame([row for folder in options.runs for row in rows(folder)])
    print(table.to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
