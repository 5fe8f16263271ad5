"""What a search expected of longer training, and what came of it, for every training of some run folders.

    python experiments/training_outlook/run.py RUN... > experiments/training_outlook/results/trainings.csv

Each row is told by what the run knew just before: the gap to the best accuracy before, the gap expected and its
standard deviation (training and samples together), and the gap after.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path

from autocompress.core.objective import Objective
from autocompress.core.trial import TrialState
from autocompress.search.aim import Aim, healing_steps
from autocompress.store.optuna_store import read_trials

QUALITY = Objective(metric="accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    out = csv.writer(sys.stdout)
    out.writerow(["run", "trial", "steps_before", "steps", "gap_before", "expected", "deviation", "gap"])
    for number, run in enumerate(parser.parse_args().runs):
        trials = [t for t in read_trials(run / "study.db") if t.state is TrialState.COMPLETE]
        for place, trial in enumerate(trials):
            steps, form = healing_steps(trial.plan), trial.plan.replace(distillation=None)
            before = [
                t
                for t in trials[:place]
                if t.plan.distillation is not None
                and t.plan.replace(distillation=None) == form
                and healing_steps(t.plan) < steps
            ]
            if not before:
                continue
            last = max(before, key=lambda t: healing_steps(t.plan))
            aim = Aim.of(trials[:place], QUALITY, ())
            gap, since = aim.gap(last), healing_steps(last.plan)
            expected, spread = aim.outlook(gap, since, [steps])
            figures = gap, expected, math.hypot(spread, aim.error), aim.gap(trial)
            out.writerow([number, trial.number, since, steps, *(round(figure, 5) for figure in figures)])


if __name__ == "__main__":
    main()
