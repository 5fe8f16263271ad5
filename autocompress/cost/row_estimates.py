"""Estimates beside published latencies: rows of models whose workload is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.core.errors import UnknownNameError
from autocompress.core.target import Capability, Precision, Target
from autocompress.cost.calibration import Score, score
from autocompress.cost.workload import FEATURES
from autocompress.hardware.calibrations import calibration
from autocompress.hardware.profiles import load_target
from autocompress.hardware.reference import (
    ReferenceRow,
    family,
    precision_name,
    runtime_name,
    workload_name,
    workloads,
)

#: Class of work -> the key of the capability that rates it.
_KEYS = {"pointwise": "Conv:pointwise", "depthwise": "Conv:depthwise", "gemm": "Gemm"}
_KINDS = FEATURES[: FEATURES.index("weights")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEstimate:
    """A published latency with its estimate.

    Args:
        estimate_ms: None where ``reason`` says why there is none.
        estimator: ``calibrated roofline`` or ``roofline``, which nothing validated.
        held_out: whether the coefficients come from a fit that never saw the model's architecture.
    """

    row: ReferenceRow
    estimate_ms: float | None
    estimator: str = ""
    held_out: bool = False
    reason: str = ""


def estimate_row(row: ReferenceRow) -> RowEstimate:
    """Estimate one row by a fit that never saw its architecture, else by the profile's facts."""
    name = workload_name(row)
    if name is None:
        return RowEstimate(row=row, estimate_ms=None, reason=f"the operations of {row.model!r} are not known")
    if row.batch != 1:
        return RowEstimate(row=row, estimate_ms=None, reason="only batch 1 is estimated")
    if row.crippled:
        return RowEstimate(row=row, estimate_ms=None, reason="AVX-512 was switched off, the profile counts on it")
    runtime, precision, amounts = runtime_name(row.runtime), precision_name(row.precision), np.array(workloads()[name])
    try:
        target = load_target(row.target)
        fit = calibration(row.target, runtime, row.threads, precision)
        if fit is not None:
            coefficients = fit.held_out.get(family(name), fit.coefficients)
            return RowEstimate(
                row=row, estimate_ms=float(amounts @ coefficients), estimator="calibrated roofline", held_out=True
            )
        found = _roofline(target, runtime, precision, amounts)
    except UnknownNameError as error:
        return RowEstimate(row=row, estimate_ms=None, reason=str(error))
    if isinstance(found, str):
        return RowEstimate(row=row, estimate_ms=None, reason=found)
    return RowEstimate(row=row, estimate_ms=found, estimator="roofline")


def _roofline(target: Target, runtime: str, precision: str, amounts: np.ndarray) -> float | str:
    """Milliseconds by the profile's rates, for a network as a whole; or why there are none."""
    spec = target.runtime(runtime)
    if precision not in list(Precision):
        return f"{precision!r} is no precision that profiles rate"
    wanted = Precision(precision)
    width = {Precision.FP16: 2.0, Precision.INT8: 1.0}.get(wanted, 4.0)
    total = 0.0
    for kind, amount in zip(_KINDS, amounts, strict=False):
        capability: Capability = spec.capability(_KEYS.get(kind, "Conv"), wanted)
        if not capability.supported or not capability.peak_gops:
            return f"{runtime} on {target.name} refuses {precision}: {capability.reason}"
        total += amount * 1e3 / (capability.peak_gops * capability.efficiency)
    moved = float(amounts[len(_KINDS) : -1].sum()) * width / float(target.facts["memory_bandwidth_gb_per_s"].value)
    return max(total, moved) + float(amounts[-1]) * spec.launch_overhead_us * 1e-3


def scores(estimates: Sequence[RowEstimate]) -> dict[tuple[str, str, int | None, str], Score]:
    """How estimates compare with the published latencies, a target, runtime, thread count and precision."""
    found: dict[tuple[str, str, int | None, str], list[tuple[float, float]]] = defaultdict(list)
    for item in estimates:
        if item.estimate_ms is not None:
            found[item.row.group].append((item.estimate_ms, item.row.typical_ms))
    return {
        group: score(np.array([e for e, _ in pairs]), np.array([r for _, r in pairs]))
        for group, pairs in sorted(found.items(), key=str)
    }
