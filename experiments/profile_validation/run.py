"""Fit the calibrated roofline to published latencies and judge it on architectures that were not fitted.

python experiments/profile_validation/run.py

Writes ``autocompress/hardware/data/calibration.json`` (coefficients that ship), ``results/groups.csv`` (one line a
target, runtime, thread count and precision) and ``results/rows.csv`` (every held-out estimate).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.cost.calibration import Key, Samples, fit_runtime, fit_target, held_out_fits, score
from autocompress.cost.workload import FEATURES
from autocompress.hardware.profiles import target_names
from autocompress.hardware.reference import family, reference_rows, usable, workloads

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "autocompress" / "hardware" / "data" / "calibration.json"
#: Fewer architectures than that say nothing about others.
LEAST = 4


def collect() -> tuple[dict[Key, Samples], dict[Key, list[tuple[str, int]]]]:
    """Rows by group; rows of one model that several sources or versions time count as their median."""
    found: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, name in usable(reference_rows()):
        if row.runtime.endswith("v0.5") or "v0.5" in row.source:
            continue
        found[row.group][name].append(row.typical_ms)
    groups, names = {}, {}
    for key, models in found.items():
        ordered = sorted(models)
        groups[key] = Samples(
            amounts=np.array([workloads()[name] for name in ordered]),
            latencies=np.array([float(np.median(models[name])) for name in ordered]),
            families=tuple(family(name) for name in ordered),
        )
        names[key] = [(name, len(models[name])) for name in ordered]
    return groups, names


def short(coefficients: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in coefficients]


def main() -> None:
    groups, names = collect()

    @cache
    def prior(key: Key, held: str) -> Any:
        _, runtime, _, precision = key
        alike = [g for k, g in groups.items() if k[0] != key[0] and k[1] == runtime and k[3] == precision]
        return fit_runtime([group.without(held) for group in alike])

    @cache
    def shared_prior(runtime: str, precision: str, target: str, held: str) -> Any:
        return prior((target, runtime, None, precision), held)

    def prior_of(key: Key, held: str) -> Any:
        return shared_prior(key[1], key[3], key[0], held)

    known = set(target_names())
    fits, table, rows = [], [], []
    for key in sorted(groups, key=str):
        target, runtime, threads, precision = key
        if target not in known or len(set(groups[key].families)) < LEAST:
            continue
        samples = groups[key]
        held = held_out_fits(groups, key, prior_of)
        pairs = zip(samples.amounts, samples.families, strict=True)
        estimates = np.array([float(amounts @ held[name]) for amounts, name in pairs])
        judged = score(estimates, samples.latencies)
        coefficients = fit_target(samples, prior_of(key, ""))
        fitted = score(samples.amounts @ coefficients, samples.latencies)
        line = {"target": target, "runtime": runtime, "threads": threads, "precision": precision}
        errors = {
            "models": judged.n,
            "median_error": round(judged.median_error, 4),
            "worst_error": round(judged.worst_error, 4),
            "spearman": None if judged.spearman is None else round(judged.spearman, 4),
            "error_factor": round(judged.error_factor, 3),
        }
        fits.append(
            {
                **line,
                **errors,
                "coefficients": short(coefficients),
                "held_out": {name: short(values) for name, values in held.items()},
            }
        )
        table.append({**line, **errors, "fitted_median_error": round(fitted.median_error, 4)})
        print(table[-1], flush=True)
        for (name, count), real, estimate in zip(names[key], samples.latencies, estimates, strict=True):
            compared = {"published_ms": round(real, 4), "held_out_estimate_ms": round(estimate, 4)}
            rows.append({**line, "model": name, "sources": count, **compared, "ratio": round(estimate / real, 3)})
    lines = ",\n".join(json.dumps(fit) for fit in fits)
    OUT.write_text(f'{{"features": {json.dumps(FEATURES)},\n"fits": [\n{lines}\n]}}\n', encoding="utf-8")
    for path, content in (("groups.csv", table), ("rows.csv", rows)):
        with (HERE / "results" / path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(content[0]))
            writer.writeheader()
            writer.writerows(content)


if __name__ == "__main__":
    main()
