"""Pieces of the report's HTML; all text is escaped here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from autocompress.core.objective import QUALITY_METRICS
from autocompress.core.pareto import ParetoFront
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial
from autocompress.report.tables import latency_ratio
from autocompress.report.wording import NONE, axis_title, figure_text, is_estimated, scaled

#: Largest loss, as a share, of the point that the cards call fastest where the user set no limit.
SMALL_LOSS = 0.01


def cards(baseline: Trial, front: ParetoFront, recommended: Mapping[str, Trial] | None = None) -> str:
    """The uncompressed model, and up to three points worth a look."""
    chosen = dict(recommended) if recommended else _recommend(baseline, front)
    parts = [_card("The uncompressed model", baseline, baseline)]
    parts += [_card(title[:1].upper() + title[1:], trial, baseline) for title, trial in chosen.items()]
    return f'<div class="cards">{"".join(parts)}</div>'


def front_table(front: ParetoFront, baseline: Trial) -> str:
    """The front, one row a point."""
    return _table(front.trials, front, baseline, details=False)


def trial_table(trials: Sequence[Trial], front: ParetoFront, baseline: Trial) -> str:
    """Every trial with what became of it."""
    return _table(sorted(trials, key=lambda t: t.number), front, baseline, details=True)


def refusal_table(space: SearchSpace) -> str:
    """What the target, the graph or the template ruled out; empty text where nothing was."""
    if not space.refused:
        return ""
    counted = Counter((r.option, r.reason) for r in space.refused)
    subjects: dict[tuple[str, str], list[str]] = {}
    for refusal in space.refused:
        subjects.setdefault((refusal.option, refusal.reason), []).append(refusal.subject)
    rows = "".join(
        f"<tr><td>{escape(option)}</td><td>{escape(_listed(subjects[option, reason]))}</td>"
        f'<td class="reason">{escape(reason)}</td></tr>'
        for (option, reason), _ in counted.most_common()
    )
    return (
        "<section><h2>Refused</h2><p class='note'>Choices that were never offered, and why.</p>"
        f"<table><thead><tr><th>choice</th><th>where</th><th>why</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def definition_list(values: Mapping[str, Any]) -> str:
    """Nested plain values as a definition list."""
    rows = "".join(
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{_value(value)}</dd>"
        for key, value in values.items()
        if value not in (None, "", {}, [])
    )
    return f"<dl>{rows}</dl>"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return definition_list(value)
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping) for item in value):
            return "".join(_value(item) for item in value)
        return escape(" ".join(str(item) for item in value))
    return escape(f"{value:g}" if isinstance(value, float) else str(value))


def _listed(names: Sequence[str], most: int = 6) -> str:
    unique = list(dict.fromkeys(names))
    rest = len(unique) - most
    return ", ".join(unique[:most]) + (f" and {rest} more" if rest > 0 else "")


def _recommend(baseline: Trial, front: ParetoFront) -> dict[str, Trial]:
    """The fastest point that loses little, and the smallest such point."""
    metric = _quality(baseline)
    if metric is None:
        return {}
    floor = baseline.value(metric) - SMALL_LOSS
    good = [t for t in front.trials if metric in t.measurements and t.value(metric) >= floor]
    fastest, smallest = _least(good, "latency_ms"), _least(good, "size_bytes")
    if fastest is not None and smallest is not None and fastest.number == smallest.number:
        return {"fastest and smallest with at most one point lost": fastest}
    chosen = {"fastest with at most one point lost": fastest, "smallest with at most one point lost": smallest}
    return {title: trial for title, trial in chosen.items() if trial is not None}


def _least(trials: Sequence[Trial], cost: str) -> Trial | None:
    return min((t for t in trials if cost in t.measurements), key=lambda t: t.value(cost), default=None)


def _card(title: str, trial: Trial, baseline: Trial) -> str:
    word = "estimated " if is_estimated([trial]) else ""
    latency = f"{word}latency {figure_text('latency_ms', trial.measurements.get('latency_ms'))} ms"
    size = figure_text("size_bytes", trial.measurements.get("size_bytes"))
    metric = _quality(trial)
    lines = []
    if trial.number == baseline.number:
        big = word + latency.removeprefix(f"{word}latency ").split(" ± ")[0].removesuffix(" ms") + " ms"
    else:
        times, verdict = _times(trial, baseline)
        big = f"{word}{times} {verdict}" if times else latency
        lines = [f"trial {trial.number}: {trial.candidate.label or trial.candidate.source}", latency]
    if metric is not None:
        test = trial.measurements[metric].details.get("test")
        on_test = "" if test is None else f", {scaled(metric, float(test)):.2f}% on the test set"
        lines.insert(1, f"{metric} {scaled(metric, trial.value(metric)):.2f}%{on_test}")
    lines.append(f"{size} kB" + _smaller(trial, baseline))
    lines += [
        f"{axis_title(m, [trial])} {figure_text(m, trial.measurements[m])}"
        for m in ("energy_mj", "peak_memory_bytes")
        if m in trial.measurements
    ]
    more = "<br>".join(escape(line) for line in lines)
    return (
        f'<div class="card"><div class="what">{escape(title)}</div><div class="big">{escape(big)}</div>'
        f'<div class="more">{more}</div></div>'
    )


def _times(trial: Trial, baseline: Trial) -> tuple[str, str]:
    ratio = latency_ratio(trial, baseline)
    if not ratio:
        return "", ""
    return (f"{1 / ratio:.2f}×", "faster") if ratio <= 1 else (f"{ratio:.2f}×", "slower")


def _smaller(trial: Trial, baseline: Trial) -> str:
    if trial.number == baseline.number or any("size_bytes" not in t.measurements for t in (trial, baseline)):
        return ""
    return f", {baseline.value('size_bytes') / trial.value('size_bytes'):.2f}× smaller"


def _quality(trial: Trial) -> str | None:
    return next((m for m in QUALITY_METRICS if m in trial.measurements), None)


def _table(trials: Sequence[Trial], front: ParetoFront, baseline: Trial, *, details: bool) -> str:
    numbers = {t.number for t in front.trials}
    metrics = [m for m in (*QUALITY_METRICS, "latency_ms", "size_bytes", "energy_mj", "peak_memory_bytes")
               if any(m in t.measurements for t in trials)]  # fmt: skip
    prefix = "estimated " if is_estimated(trials) else ""
    titles = [("trial", True), ("plan", False), *((axis_title(m, trials), True) for m in metrics)]
    at = 2 + sum(m in QUALITY_METRICS for m in metrics)
    titles.insert(at, ("on the test set (%)", True))
    titles.append((f"{prefix}latency ratio", True))
    titles += [("state", False), ("why", False)] if details else [("source", False)]
    head = "".join(f'<th class="{"number" if number else "text"}">{escape(text)}</th>' for text, number in titles)
    rows = []
    for trial in trials:
        ratio = latency_ratio(trial, baseline)
        cells = [figure_text(m, trial.measurements.get(m)) for m in metrics]
        cells.insert(at - 2, _test(trial))
        cells.append(NONE if ratio is None else f"{ratio:.3f}")
        numeric = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        marks = [trial.state.value if details else ""]
        marks += ["front"] if details and trial.number in numbers else []
        marks += ["baseline"] if trial.candidate.source == "baseline" else []
        tail = (
            f'<td>{escape(trial.state.value)}</td><td class="reason">{escape(trial.error or "")}</td>'
            if details
            else f"<td>{escape(trial.candidate.source)}</td>"
        )
        rows.append(
            f'<tr class="{" ".join(marks).strip()}"><td class="number">{trial.number}</td>'
            f"<td>{escape(trial.candidate.label or trial.candidate.source)}</td>{numeric}{tail}</tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _test(trial: Trial) -> str:
    metric = _quality(trial)
    details = {} if metric is None else trial.measurements[metric].details
    if details.get("test") is None:
        return NONE
    text = f"{100 * float(details['test']):.2f}"
    ends = details.get("test_interval")
    return text if ends is None else f"{text} ± {50 * (float(ends[1]) - float(ends[0])):.1f}"
