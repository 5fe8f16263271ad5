"""Bytes and multiply speed of each sparse format against a dense matrix: `python experiments/sparse_formats/run.py`.

Writes `results/sparse_formats.csv` and `docs/sparse_formats.md`; under three minutes on one core.
"""

from __future__ import annotations

import csv
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from autocompress.compress.sparse_formats import FORMATS, choose_format, store
from autocompress.compress.sparsity import block_mask, unstructured_mask
from autocompress.core.measurement import QUICK
from autocompress.measure.timing import compare

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "sparse_formats.md"
#: Name to rows, columns, and columns of what it is multiplied with (positions or tokens).
LAYERS = {
    "ResNet-50 3x3, stage 2": (128, 1152, 784),
    "ResNet-50 1x1, stage 3": (256, 1024, 196),
    "BERT-base attention": (768, 768, 128),
    "BERT-base first of MLP": (3072, 768, 128),
}
#: Pattern to shares of zeros.
SPARSITIES = {"unstructured": (0.5, 0.8, 0.9, 0.95, 0.99), "block 8x8": (0.9,)}
#: Slower than this in one call, a format is not timed further.
HOPELESS = 40.0
POLICY = replace(QUICK, max_seconds=0.5)


def matrices() -> Iterator[tuple[str, str, float, Any, Any]]:
    """Layer, pattern, share of zeros, matrix and what it is multiplied with."""
    rng = np.random.default_rng(0)
    for layer, (rows, columns, n) in LAYERS.items():
        weight = rng.standard_normal((rows, columns), dtype=np.float32)
        x = rng.standard_normal((columns, n), dtype=np.float32)
        for pattern, ratios in SPARSITIES.items():
            for ratio in ratios:
                blocks = pattern.startswith("block")
                mask = block_mask(weight, ratio, (8, 8)) if blocks else unstructured_mask(weight, ratio)
                yield layer, pattern, ratio, weight * mask, x


def measure(layer: str, pattern: str, ratio: float, matrix: Any, x: Any) -> Iterator[dict[str, Any]]:
    """One row a format."""
    chosen = choose_format(matrix)
    for name in FORMATS:
        if name == "dense":
            continue
        stored = store(matrix, name)
        row: dict[str, Any] = {
            "layer": layer,
            "pattern": pattern,
            "zeros": ratio,
            "format": name,
            "auto": name == chosen,
            "bytes_ratio": round(stored.nbytes / matrix.nbytes, 4),
        }
        sparse, dense = partial(stored.multiply, x), partial(np.matmul, matrix, x)
        once = [min(_seconds(call) for _ in range(2)) for call in (sparse, dense)]
        if once[0] > HOPELESS * once[1]:
            yield row | {"time_ratio": round(once[0] / once[1], 1), "low": "", "high": "", "calm": ""}
            continue
        timing = compare(sparse, dense, POLICY)
        found = timing.ratio_interval
        yield row | {
            "time_ratio": round(timing.ratio, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "calm": timing.details.get("calm", ""),
        }


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def page(rows: list[dict[str, Any]]) -> str:
    """The figures as a page of docs."""
    lines = [
        "# Sparse formats against dense",
        "",
        "Made by `python experiments/sparse_formats/run.py`; every row is in `experiments/sparse_formats/results/`.",
        "One thread of this machine's processor; float32 values, 4-byte places. Each cell is **bytes / time of"
        " `y = W @ x`** as shares of the dense matrix and of numpy's dense product, interleaved; `*` is what `auto`"
        " takes. Intervals are in the CSV; times without one are single calls, over 40 times as slow as dense.",
        "",
    ]
    formats = [name for name in FORMATS if name != "dense"]
    for layer, (height, width, n) in LAYERS.items():
        lines += [f"## {layer}: {height} x {width} times {width} x {n}", ""]
        lines += [f"| zeros | {' | '.join(formats)} |", "|---" * (len(formats) + 1) + "|"]
        for pattern, ratios in SPARSITIES.items():
            for ratio in ratios:
                key = (layer, pattern, ratio)
                here = {r["format"]: r for r in rows if (r["layer"], r["pattern"], r["zeros"]) == key}
                cells = [
                    f"{here[f]['bytes_ratio']:.2f} / {here[f]['time_ratio']:.2f}{' *' if here[f]['auto'] else ''}"
                    for f in formats
                ]
                lines.append(f"| {ratio:.0%} {pattern} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    # That DIA suits no unstructured matrix is what this shows.
    warnings.filterwarnings("ignore", message="Constructing a DIA matrix")
    rows = [row for item in matrices() for row in measure(*item)]
    with (HERE / "results" / "sparse_formats.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
