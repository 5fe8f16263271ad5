"""How metrics are named and scaled for a reader."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import QUALITY_METRICS
from autocompress.core.trial import Trial

_TITLES = {
    "accuracy": "accuracy (%)",
    "fidelity": "fidelity (%)",
    "latency_ms": "latency (ms)",
    "size_bytes": "size (kB)",
    "energy_mj": "energy (mJ)",
    "peak_memory_bytes": "peak memory (MB)",
    "macs": "multiply-accumulates (10⁶)",
}
_SCALES = {"size_bytes": 1e-3, "peak_memory_bytes": 1e-6, "macs": 1e-6}
NONE = "–"


def metric_title(metric: str) -> str:
    """Name with the unit that :func:`scaled` gives."""
    return _TITLES.get(metric, metric)


def scaled(metric: str, value: float) -> float:
    """The value in the unit of :func:`metric_title`: shares in percent, bytes in kB or MB."""
    return value * (100.0 if metric in QUALITY_METRICS else _SCALES.get(metric, 1.0))


def is_estimated(trials: Iterable[Trial], metric: str = "latency_ms") -> bool:
    """Whether any trial's ``metric`` is an estimate."""
    found = (t.measurements[metric] for t in trials if metric in t.measurements)
    return any(m.provenance is Provenance.ESTIMATED for m in found)


def axis_title(metric: str, trials: Iterable[Trial]) -> str:
    """Title of an axis or a column; an estimate says so."""
    title = metric_title(metric)
    return f"estimated {title}" if is_estimated(trials, metric) else title


def figure_text(metric: str, measurement: Measurement | None) -> str:
    """Value with the half width of its interval, in the unit of :func:`metric_title`."""
    if measurement is None:
        return NONE
    value = scaled(metric, measurement.value)
    text = f"{value:.2f}" if metric in QUALITY_METRICS else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    if metric == "latency_ms":
        text = f"{value:.3f}" if value < 100 else f"{value:.1f}"
    interval = measurement.interval
    half = 0.0 if interval is None else scaled(metric, interval.half_width)
    if half <= 0:
        return text
    return f"{text} ± {half:.1f}" if metric in QUALITY_METRICS else f"{text} ± {half:.2g}"
