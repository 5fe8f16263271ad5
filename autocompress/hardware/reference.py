"""Published latencies that ship with the package, and rows of the same format from anywhere."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autocompress.core.errors import UserError

#: Columns that a file of rows must have; ``latency_min_ms`` and ``source`` may be missing.
COLUMNS = ("target", "runtime", "threads", "model", "precision", "batch", "input_px", "latency_ms")
_DATA = Path(__file__).parent / "data"
#: The least of several runs replaces their mean where the mean is that much longer: something else ran beside it.
OUTLIER = 1.5
#: Names that tables use for one runtime.
_RUNTIMES = {
    "ncnn-cpu": "ncnn",
    "tensorrt(torch2trt)": "tensorrt",
    "tensorrt10": "tensorrt",
    "tflite-cpu": "tflite",
    "tflite@cpu": "tflite",
}
#: Names of one table, by what the model is; pixels follow where the table has them.
_MODELS = {
    "alexnet": "alexnet",
    "efficientnet_b0": "efficientnet-b0",
    "efficientnetv2_b0": "efficientnet-v2-b0",
    "mobilenet": "mobilenet-v1-1.0-224",
    "mobilenet_v1": "mobilenet-v1-1.0-224",
    "mobilenet_v2": "mobilenet-v2-1.0-224",
    "mobilenet_v3": "mobilenet-v3-large-1.0",
    "mobilenet_v3_large": "mobilenet-v3-large-1.0",
    "mobilenet_v3_small": "mobilenet-v3-small-1.0",
    "mobilenet_ssd": "mobilenet-ssd",
    "nanodet_m": "nanodet-m",
    "proxylessnasnet": "proxylessnas-mobile",
    "regnety_400m": "regnet-y-400m",
    "shufflenet": "shufflenet-v1-g3",
    "shufflenet_v2": "shufflenet-v2-1.0",
    "squeezenet": "squeezenet-1.1",
    "squeezenet1_0": "squeezenet-1.0",
    "squeezenet1_1": "squeezenet-1.1",
    "squeezenet_ssd": "squeezenet-ssd",
    "vision_transformer": "vit-b32-384",
    "yolov4-tiny": "yolov4-tiny-416",
    "inception_v1": "googlenet",
    "resnet_v1_50": "resnet50",
    "resnet_v1_101": "resnet101",
    "resnet_v1_152": "resnet152",
    "densenet": "densenet121",
}
_V1_V2 = re.compile(r"mobilenet[-_]v([12])[-_]([\d.]+)[-_](\d+)$")
_V3 = re.compile(r"mobilenet-v3-(large|small)(-minimalistic)?_224_([\d.]+)_(?:float|uint8)$")
_LITE = re.compile(r"(?:non-|quantized-)?efficientnet[-_]lite(\d)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """One published latency.

    Args:
        threads: None where the source does not tell.
        input_px: side of the square input; None where the source does not tell.
        latency_ms: the mean, milliseconds.
        latency_min_ms: the least, where published.
        device: as the source describes it; may say that a part of the chip was switched off.
    """

    target: str
    runtime: str
    threads: int | None
    model: str
    precision: str
    batch: int
    input_px: int | None
    latency_ms: float
    latency_min_ms: float | None = None
    source: str = ""
    device: str = ""

    @property
    def typical_ms(self) -> float:
        """The mean, or the least where the mean is an outlier beside it."""
        least = self.latency_min_ms
        return least if least and self.latency_ms > OUTLIER * least else self.latency_ms

    @property
    def crippled(self) -> bool:
        """Whether instruction sets that the profile counts on were switched off."""
        return "Without AVX512" in self.device

    @property
    def group(self) -> tuple[str, str, int | None, str]:
        """What a fit is made for: target, runtime, threads, precision."""
        return (self.target, runtime_name(self.runtime), self.threads, precision_name(self.precision))


def runtime_name(name: str) -> str:
    """A runtime as profiles call it."""
    return _RUNTIMES.get(name.lower(), name)


def precision_name(name: str) -> str:
    """A precision as profiles call it."""
    return "int8" if name == "uint8" else name


def workload_name(row: ReferenceRow) -> str | None:
    """The workload that a row's model is; None where there is none."""
    name = row.model
    if name == "alexnet" and row.input_px == 227:
        return "alexnet-caffe"
    if name == "squeezenet" and row.input_px == 227:
        return "squeezenet-1.1-227"
    if name.startswith("mobilenet_v2(300x300"):
        return "mobilenet-v2-1.0-300"
    if match := _V1_V2.match(name):
        found = f"mobilenet-v{match[1]}-{match[2]}-{match[3]}"
    elif match := _V3.match(name):
        found = f"mobilenet-v3-{match[1]}{match[2] or ''}-{match[3]}"
    elif match := _LITE.match(name):
        found = f"efficientnet-lite{match[1]}"
    else:
        found = _MODELS.get(name, name)
    return found if found in workloads() else None


def family(workload: str) -> str:
    """Models that share an architecture: none of a family is in the fit that is judged on it."""
    for stem in ("mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "efficientnet-lite", "squeezenet-1", "alexnet"):
        if workload.startswith(stem):
            return stem
    return workload


@cache
def workloads() -> Mapping[str, tuple[float, ...]]:
    """Workload vectors of known models, by name; entries as :data:`autocompress.cost.workload.FEATURES`."""
    with (_DATA / "workloads.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return {row[0]: tuple(float(value) for value in row[2:]) for row in rows[1:]}


@cache
def reference_rows() -> tuple[ReferenceRow, ...]:
    """The published latencies that ship with the package."""
    text = gzip.decompress((_DATA / "reference_latencies.csv.gz").read_bytes()).decode("utf-8")
    return _parse(csv.DictReader(io.StringIO(text)), "reference_latencies.csv.gz")


def read_rows(path: str | Path) -> tuple[ReferenceRow, ...]:
    """Rows of a CSV file.

    Raises:
        UserError: the file cannot be read, a column is missing, or a value is no number; names the line.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            return _parse(csv.DictReader(file), Path(path).name)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}.") from error


def _parse(reader: csv.DictReader[str], name: str) -> tuple[ReferenceRow, ...]:
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{name} has no column {missing[0]!r}; rows need {', '.join(COLUMNS)}.")
    return tuple(_row(values, f"{name}, line {number}") for number, values in enumerate(reader, 2))


def _row(values: Mapping[str, str], where: str) -> ReferenceRow:
    def number(column: str, at_least: float = 0.0) -> float | None:
        text = (values.get(column) or "").strip()
        if not text:
            return None
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not (math.isfinite(found) and found > at_least):
            raise UserError(f"{where}: {column} must be a positive number, but got {text!r}.")
        return found

    latency = number("latency_ms")
    if latency is None:
        raise UserError(f"{where}: latency_ms is missing.")
    threads, pixels = (values.get("threads") or "").strip(), number("input_px")
    return ReferenceRow(
        target=values["target"],
        runtime=values["runtime"],
        threads=int(threads) if threads.isdigit() else None,
        model=values["model"],
        precision=values["precision"],
        batch=int(number("batch") or 1),
        input_px=None if pixels is None else int(pixels),
        latency_ms=latency,
        latency_min_ms=number("latency_min_ms"),
        source=values.get("source") or "",
        device=values.get("device") or "",
    )


def usable(rows: Iterable[ReferenceRow]) -> Sequence[tuple[ReferenceRow, str]]:
    """Rows of batch 1 whose workload is known, with its name; whole applications and odd settings are left out."""
    found = []
    for row in rows:
        name = workload_name(row)
        if name is None or row.batch != 1 or "end-to-end" in row.source:
            continue
        found.append((row, name))
    return found
