"""Write the workload vectors of the networks in nets.py: the table that ships with the package.

python experiments/profile_validation/workloads.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from nets import NETS

from autocompress.cost.workload import FEATURES, workload
from autocompress.graph.importing import load_model

OUT = Path(__file__).parents[2] / "autocompress" / "hardware" / "data" / "workloads.csv"


def main() -> None:
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "input_px", *FEATURES])
        for name, (pixels, build) in sorted(NETS.items()):
            found = workload(load_model(build().eval(), (torch.zeros(1, 3, pixels, pixels),)))
            writer.writerow([name, pixels, *(f"{found[feature]:.6g}" for feature in FEATURES)])
            print(name, {k: round(v, 3) for k, v in found.items()}, flush=True)


if __name__ == "__main__":
    main()
