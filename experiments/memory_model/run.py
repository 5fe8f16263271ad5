"""Peak memory of zoo networks, measured in fresh processes, and what weights, activations and nodes explain of it.

python experiments/memory_model/run.py measure   writes results/memory.csv (some minutes)
python experiments/memory_model/run.py recount   counts their weights and activations anew
python experiments/memory_model/run.py fit       writes results/fit.csv and prints the coefficients
"""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import ShapeRanges
from autocompress.core.errors import AutocompressError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.cost.memory import FEATURES, MemoryEstimate
from autocompress.cost.roofline import Roofline
from autocompress.graph.importing import load_model
from autocompress.hardware.profiles import load_target
from autocompress.measure.memory import peak_memory
from autocompress.zoo.audio import audio_m5
from autocompress.zoo.bert import bert_tiny, minilm
from autocompress.zoo.convnext import convnext_small, convnext_tiny
from autocompress.zoo.densenet import densenet40
from autocompress.zoo.efficientnet import efficientnet_lite0
from autocompress.zoo.gpt import gpt_tiny
from autocompress.zoo.inception import inception_small
from autocompress.zoo.mobilenet import mobilenet_v2
from autocompress.zoo.mobilenet_v1 import mobilenet_v1
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_small
from autocompress.zoo.recurrent import gru_small, lstm_small
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.resnet50 import resnet50
from autocompress.zoo.resnext import resnext29
from autocompress.zoo.senet import se_resnet14
from autocompress.zoo.shufflenet import shufflenet_v2
from autocompress.zoo.squeezenet import squeezenet
from autocompress.zoo.unet import unet_small
from autocompress.zoo.vgg import vgg11
from autocompress.zoo.vit import vit_small
from autocompress.zoo.yolo import yolo_small

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("model", "family", "input", "plan", "peak_bytes", "low", "high", "file_bytes", *FEATURES)
INT8 = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
PLANS = {"fp32": CompressionPlan(), "int8": INT8, "half": CompressionPlan(prune={"*": 0.5}, importance="l1")}
REPEATS = 3
TARGET = load_target("x86-avx512-vnni")
MODEL = MemoryEstimate(Roofline(TARGET, TARGET.runtime("onnxruntime")))


def images(side: int) -> tuple[torch.Tensor, ...]:
    return (torch.zeros(1, 3, side, side),)


def tokens(n: int, inputs: int = 1) -> tuple[torch.Tensor, ...]:
    return (torch.zeros(1, n, dtype=torch.int64),) * inputs


#: Family, builder, inputs. A family is held out as a whole: its members are alike.
CASES: list[tuple[str, Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = [
    ("audio", audio_m5, (torch.zeros(1, 1, 8000),)),
    ("bert", bert_tiny, tokens(12, 2)),
    ("bert", minilm, tokens(16, 2)),
    ("convnext", convnext_tiny, images(64)),
    ("convnext", convnext_small, images(32)),
    ("densenet", densenet40, images(32)),
    ("efficientnet", efficientnet_lite0, images(32)),
    ("efficientnet", efficientnet_lite0, images(224)),
    ("gpt", gpt_tiny, tokens(12)),
    ("inception", inception_small, images(32)),
    ("mobilenet", mobilenet_v1, images(128)),
    ("mobilenet", mobilenet_v2, images(32)),
    ("mobilenet", mobilenet_v2, images(224)),
    ("mobilenet", mobilenet_v3_small, images(128)),
    ("recurrent", lstm_small, (torch.zeros(1, 6, 8),)),
    ("recurrent", gru_small, (torch.zeros(1, 6, 8),)),
    ("resnet", resnet20, images(32)),
    ("resnet", resnet20, images(128)),
    ("resnet", resnet50, images(64)),
    ("resnet", resnet50, images(224)),
    ("resnext", resnext29, images(32)),
    ("senet", se_resnet14, images(32)),
    ("shufflenet", shufflenet_v2, images(128)),
    ("squeezenet", squeezenet, images(224)),
    ("unet", unet_small, images(128)),
    ("vgg", vgg11, images(32)),
    ("vit", vit_small, images(32)),
    ("yolo", yolo_small, images(128)),
]


def measured(done: set[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """One row a network, input and plan that the network can take and that is not done."""
    for family, build, inputs in CASES:
        shape = "x".join(map(str, inputs[0].shape))
        left = {name: plan for name, plan in PLANS.items() if (build.__name__, shape, name) not in done}
        if not left:
            continue
        torch.manual_seed(0)
        graph = load_model(build().eval(), tuple(torch.cat((x, x)) for x in inputs))
        compressor = Compressor(graph)
        sample = tuple(np.zeros(x.shape, np.int64 if x.dtype == torch.int64 else np.float32) for x in inputs)
        for name, plan in left.items():
            try:
                demand = MODEL.features(graph, plan)
                thin = compressor.pruned(plan)
                made = compressor.finish(thin, plan, draft=True, calibration=ShapeRanges(thin))
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "model.onnx"
                    made.save(path)
                    size = path.stat().st_size
                    found = peak_memory(path, repeats=REPEATS, sample=sample)
            except AutocompressError as error:
                print(f"{build.__name__} {name}: {error}", file=sys.stderr)
                continue
            values = dict(zip(FEATURES, demand, strict=True))
            yield {
                "model": build.__name__,
                "family": family,
                "input": shape,
                "plan": name,
                "peak_bytes": round(found.value),
                "low": round(min(found.samples)),
                "high": round(max(found.samples)),
                "file_bytes": size,
                **{key: round(value) for key, value in values.items()},
            }


def recount() -> None:
    """Write again what the networks of memory.csv are made of: after a change of FEATURES."""
    with (RESULTS / "memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = {(build.__name__, "x".join(map(str, inputs[0].shape))): (build, inputs) for _, build, inputs in CASES}
    found, last = [], None
    for row in rows:
        key = row["model"], row["input"]
        if key != last:
            build, inputs = cases[key]
            torch.manual_seed(0)
            graph, last = load_model(build().eval(), tuple(torch.cat((x, x)) for x in inputs)), key
        demand = dict(zip(FEATURES, MODEL.features(graph, PLANS[row["plan"]]), strict=True))
        found.append({name: round(demand[name]) if name in demand else row[name] for name in COLUMNS})
    write(RESULTS / "memory.csv", found)


def fitted(rows: list[dict[str, str]]) -> np.ndarray:
    """Coefficients, none negative, with the least squared relative error."""
    x = np.array([[float(row[name]) for name in FEATURES] for row in rows])
    y = np.array([float(row["peak_bytes"]) for row in rows])
    return nnls(x / y[:, None], np.ones(len(y)))[0]


def judged(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Each row with the estimate of a fit that saw nothing of its family."""
    found = []
    for family in sorted({row["family"] for row in rows}):
        coefficients = fitted([row for row in rows if row["family"] != family])
        for row in (row for row in rows if row["family"] == family):
            demand = np.array([float(row[name]) for name in FEATURES])
            peak = float(row["peak_bytes"])
            estimate = float(demand @ coefficients)
            bound = float(row["file_bytes"]) + float(row["activations"])
            found.append(
                {
                    **{name: row[name] for name in ("model", "family", "input", "plan", "peak_bytes")},
                    "estimate": round(estimate),
                    "ratio": round(estimate / peak, 4),
                    "lower_bound_ratio": round(bound / peak, 4),
                }
            )
    return found


def measure() -> None:
    """Append the rows that are not there yet."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "memory.csv"
    done = set()
    if path.is_file():
        with path.open() as file:
            done = {(row["model"], row["input"], row["plan"]) for row in csv.DictReader(file)}
    else:
        path.write_text(",".join(COLUMNS) + "\n")
    for row in measured(done):
        with path.open("a", newline="") as file:
            csv.DictWriter(file, fieldnames=COLUMNS).writerow(row)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def fit() -> None:
    with (RESULTS / "memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, value in zip(FEATURES, fitted(rows), strict=True):
        print(f"{name:>16} {value:.6g}")
    found = judged(rows)
    write(RESULTS / "fit.csv", found)
    for name in (None, *PLANS):
        ratios = [r["ratio"] for r in found if name in (None, r["plan"])]
        factors = sorted(max(ratio, 1 / ratio) for ratio in ratios)
        inside = factors[min(len(factors) - 1, int(np.ceil(0.95 * len(factors))) - 1)]
        print(
            f"{name or 'all':>5}: n {len(ratios)}, median error {statistics.median(abs(r - 1) for r in ratios):.1%}, "
            f"95% within a factor of {inside:.2f}, worst {factors[-1]:.2f}"
        )
    low = statistics.median(r["lower_bound_ratio"] for r in found)
    print(f"the lower bound is {low:.2f} of the peak (median)")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    elif sys.argv[1:] == ["recount"]:
        recount()
    elif sys.argv[1:] == ["fit"]:
        fit()
    else:
        sys.exit(__doc__)
