"""How trials' figures read in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import QUALITY_METRICS
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial, TrialState

NONE = "–"
_FURTHER = {"energy_mj": "energy (mJ)", "peak_memory_bytes": "peak memory (MB)"}


def is_estimated(trials: Sequence[Trial]) -> bool:
    """Whether the latencies of these trials are estimates."""
    found = (t.measurements["latency_ms"] for t in trials if "latency_ms" in t.measurements)
    return any(m.provenance is Provenance.ESTIMATED for m in found)


def latency_title(trials: Sequence[Trial]) -> str:
    """Title of a latency column."""
    return "estimated latency (ms)" if is_estimated(trials) else "latency (ms)"


def quality_metric(trial: Trial) -> str | None:
    """The quality metric that a trial carries, if any."""
    return next((metric for metric in QUALITY_METRICS if metric in trial.measurements), None)


def quality_text(trial: Trial) -> str:
    """Quality in percent with the half width of its interval; ``~`` marks a small sample."""
    for prefix, mark in (("", ""), ("quick_", "~")):
        for metric in QUALITY_METRICS:
            if prefix + metric in trial.measurements:
                return mark + percent(trial.measurements[prefix + metric])
    return NONE


def percent(measurement: Measurement) -> str:
    """A share in percent with the half width of its interval."""
    text = f"{100 * measurement.value:.2f}"
    return text if measurement.interval is None else f"{text} ±{100 * measurement.interval.half_width:.1f}"


def test_text(trial: Trial) -> str:
    """Quality on the test set in percent."""
    metric = quality_metric(trial)
    value = None if metric is None else trial.measurements[metric].details.get("test")
    return NONE if value is None else f"{100 * float(value):.2f}"


def latency_text(trial: Trial) -> str:
    """Latency in milliseconds with the half width of its interval."""
    measurement = trial.measurements.get("latency_ms")
    if measurement is None:
        return NONE
    text = f"{measurement.value:.3g}" if measurement.value >= 100 else f"{measurement.value:.3f}"
    return text if measurement.interval is None else f"{text} ±{measurement.interval.half_width:.2g}"


def further_titles(trials: Sequence[Trial]) -> list[str]:
    """Titles of the columns of energy and peak memory, where these trials have them."""
    found = []
    for metric, title in _FURTHER.items():
        kinds = {t.measurements[metric].provenance for t in trials if metric in t.measurements}
        if kinds:
            found.append(f"estimated {title}" if Provenance.ESTIMATED in kinds else title)
    return found


def further_texts(trial: Trial, trials: Sequence[Trial]) -> list[str]:
    """A trial's figures for the columns that :func:`further_titles` gives of ``trials``."""
    found = []
    for metric in _FURTHER:
        if any(metric in t.measurements for t in trials):
            measurement = trial.measurements.get(metric)
            scale = 1e-6 if metric.endswith("_bytes") else 1.0
            found.append(NONE if measurement is None else f"{measurement.value * scale:.3g}")
    return found


def latency_ratio(trial: Trial, baseline: Trial | float | None) -> float | None:
    """Latency as a share of the uncompressed model's, from the interleaved timing where there is one.

    ``baseline`` is the uncompressed model's trial or its latency in milliseconds.
    """
    measurement = trial.measurements.get("latency_ms")
    if measurement is None:
        return None
    ratio = measurement.details.get("ratio")
    if ratio is not None:
        return float(ratio)
    if isinstance(baseline, Trial):
        found = baseline.measurements.get("latency_ms")
        baseline = None if found is None else found.value
    return measurement.value / baseline if baseline else None


def ratio_text(trial: Trial, baseline: Trial | float | None) -> str:
    """Latency ratio to the baseline."""
    ratio = latency_ratio(trial, baseline)
    return NONE if ratio is None else f"{ratio:.3f}"


def speedup_text(trial: Trial, baseline: Trial | float | None) -> str:
    """How many times faster than the baseline."""
    ratio = latency_ratio(trial, baseline)
    return NONE if not ratio else f"{1 / ratio:.2f}x"


def state_text(trial: Trial, on_front: bool, width: int = 60) -> str:
    """What became of a trial, with its reason cut to ``width``."""
    if trial.state is TrialState.COMPLETE:
        return "front" if on_front else "done"
    word = "stopped" if trial.state is TrialState.PRUNED else "FAILED"
    reason = " ".join((trial.error or "").split())
    text = f"{word}: {reason}" if reason else word
    return text if len(text) <= width else text[: width - 1] + "…"


def is_uncompressed(trial: Trial) -> bool:
    """Whether the trial is the model as it came."""
    return trial.plan == CompressionPlan()


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
