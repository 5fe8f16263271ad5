"""Make the table of published latencies that ships from the full one.

python experiments/profile_validation/trim.py FULL.csv

Kept: rows of targets that have a profile, and rows of any device whose network has a workload vector (they say how
the kinds of operators compare in a runtime). Rows with AVX-512 switched off and the device column are dropped; sources
stay.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path

from autocompress.hardware.profiles import target_names
from autocompress.hardware.reference import read_rows, workload_name

OUT = Path(__file__).parents[2] / "autocompress" / "hardware" / "data" / "reference_latencies.csv.gz"
COLUMNS = [
    "target", "runtime", "threads", "model", "precision", "batch", "input_px", "latency_ms", "latency_min_ms", "source",
]  # fmt: skip
#: Tables name some boards after their host or variant.
SAME = {
    "coral-edgetpu-usb": "coral-edgetpu", "android-pixel4": "pixel-4", "nvidia-h100-pcie": "nvidia-h100",
}  # fmt: skip


def main(path: str) -> None:
    known, text = set(target_names()), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for row in read_rows(path):
        target = SAME.get(row.target, row.target)
        if row.crippled or (target not in known and workload_name(row) is None):
            continue
        values = [target, *(getattr(row, name) for name in COLUMNS[1:])]
        writer.writerow(["" if value is None else value for value in values])
        count += 1
    OUT.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    print(count, "rows,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
