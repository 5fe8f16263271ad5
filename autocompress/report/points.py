"""What the figures draw, as plain values: positions, texts, frames."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from autocompress.core.measurement import Provenance
from autocompress.core.objective import Objective
from autocompress.core.trial import Trial
from autocompress.report.wording import metric_title, scaled


def values(trials: Sequence[Trial], objective: Objective) -> list[float]:
    """Each trial's value in the unit that the reader sees."""
    return [scaled(objective.metric, t.value(objective.metric)) for t in trials]


def frame(trials: Sequence[Trial], y: Objective) -> list[float] | None:
    """A range that shows the front; trials far off are reached by zooming out."""
    found = [t.measurements[y.metric] for t in trials]
    if not found or not y.maximize:
        return None
    low = min(m.interval.low if m.interval is not None else m.value for m in found)
    high = max(m.interval.high if m.interval is not None else m.value for m in found)
    pad = 0.08 * (high - low) or 0.01
    return [scaled(y.metric, low - pad), scaled(y.metric, high + pad)]


def hover_text(trial: Trial, x: Objective, y: Objective) -> str:
    """HTML shown when the pointer is on a point."""
    lines = [f"<b>trial {trial.number}</b> {escape(label(trial))}"]
    for objective in (y, x):
        measurement = trial.measurements[objective.metric]
        word = "estimated " if measurement.provenance is Provenance.ESTIMATED else ""
        lines.append(f"{word}{metric_title(objective.metric)}: {scaled(objective.metric, measurement.value):.4g}")
    ratio = trial.measurements["latency_ms"].details.get("ratio") if "latency_ms" in trial.measurements else None
    if ratio is not None:
        lines.append(f"ratio to the uncompressed model: {ratio:.3f}")
    return "<br>".join(lines)


def label(trial: Trial) -> str:
    """A trial's short name."""
    return trial.candidate.label or trial.candidate.source


def test_value(trial: Trial, metric: str) -> float | None:
    """Quality on the test set as a share, if it was taken."""
    value = trial.measurements[metric].details.get("test")
    return None if value is None else float(value)


def ranked(options: Sequence[str], order: Sequence[str]) -> list[str]:
    """Precisions from mild to harsh, ratios by size."""

    def key(option: str) -> tuple[float, str]:
        if option in order:
            return float(order.index(option)), option
        try:
            return float(option), option
        except ValueError:
            return 0.0, option

    return sorted(options, key=key)


def option_title(option: str, what: str) -> str:
    """An option as the legend names it."""
    if what == "skip":
        return "skipped"
    try:
        return f"{100 * float(option):.0f}% removed" if what == "ratio" else option
    except ValueError:
        return option
