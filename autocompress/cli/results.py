"""What a search says at its beginning and at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any

from autocompress.cli.figures_text import (
    NONE,
    further_texts,
    further_titles,
    latency_text,
    latency_title,
    percent,
    ratio_text,
    speedup_text,
    test_text,
)
from autocompress.cli.rows import size_text
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import METRICS, QUALITY_METRICS
from autocompress.core.request import SearchOutcome
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def space_lines(space: SearchSpace, baseline: Mapping[str, Any]) -> list[str]:
    """The space in a few lines: its size, what was refused and why, and the figures of the uncompressed model."""
    kinds = Counter(choice.kind for choice in space.choices)
    listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    lines = [f"Search space: about 10^{space.log10_size:.0f} plans from {len(space.choices)} choices ({listed})."]
    reasons = Counter((refusal.option, refusal.reason) for refusal in space.refused)
    for (option, reason), count in reasons.most_common(12):
        where = "" if count == 1 else f" ({count} times)"
        lines.append(f"  refused {option}{where}: {reason}")
    if len(reasons) > 12:
        lines.append(f"  … and {len(reasons) - 12} more refusals; `autocompress analyze` lists them all.")
    figures = ", ".join(f"{_baseline_name(key)} {_baseline_value(key, value)}" for key, value in baseline.items())
    return [*lines, f"Uncompressed: {figures}."] if figures else lines


def front_table(outcome: SearchOutcome) -> Table:
    """The front, one row a point."""
    from rich import box
    from rich.table import Table

    trials = outcome.front.trials
    estimated = outcome.provenance is Provenance.ESTIMATED
    title = f"Pareto front: {len(trials)} point{'s' * (len(trials) != 1)}{', latencies estimated' * estimated}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", justify="right")
    table.add_column("plan", overflow="fold", max_width=44)
    prefix = "estimated " if estimated else ""
    titles = (
        f"{outcome.metric} (%)",
        "test (%)",
        latency_title(trials),
        f"{prefix}ratio",
        f"{prefix}speedup",
        "size",
        *further_titles(trials),
    )
    for column in titles:
        table.add_column(column, justify="right")
    for trial in trials:
        table.add_row(str(trial.number), trial.candidate.label or trial.candidate.source, *_figures(trial, outcome))
    return table


def print_outcome(outcome: SearchOutcome, console: Console) -> None:
    """Print the front, the recommended points, and where to go from here."""
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    for message in outcome.messages:
        say(message)
    if not outcome.front.trials:
        say(f"No trial completed; {outcome.run_dir / 'trials.csv'} says why.")
        return
    console.print(front_table(outcome))
    for title, trial in outcome.recommended.items():
        say(f"{title[:1].upper()}{title[1:]}: trial {trial.number} ({_summary(trial, outcome)})", "bold")
    say("")
    say(f"Report:  {outcome.run_dir / 'report.html'}")
    pick = next(iter(outcome.recommended.values()), outcome.front.trials[0]).number
    say(f"Next:    autocompress export {quote(str(outcome.run_dir))} --pick {pick} --out exported")


def _figures(trial: Trial, outcome: SearchOutcome) -> tuple[str, ...]:
    quality = trial.measurements.get(outcome.metric)
    size = trial.measurements.get("size_bytes")
    return (
        NONE if quality is None else percent(quality),
        test_text(trial),
        latency_text(trial),
        ratio_text(trial, outcome.baseline),
        speedup_text(trial, outcome.baseline),
        NONE if size is None else size_text(size.value),
        *further_texts(trial, outcome.front.trials),
    )


def _summary(trial: Trial, outcome: SearchOutcome) -> str:
    word = "estimated " if outcome.provenance is Provenance.ESTIMATED else ""
    quality = trial.measurements.get(outcome.metric)
    parts = [trial.candidate.label or trial.candidate.source]
    if quality is not None:
        parts.append(f"{outcome.metric} {100 * quality.value:.2f}%")
    if test_text(trial) != NONE:
        parts.append(f"test {test_text(trial)}%")
    parts.append(f"{word}latency {latency_text(trial)} ms")
    if trial.number != outcome.baseline.number:
        parts.append(f"{word}speedup {speedup_text(trial, outcome.baseline)}")
    return "; ".join(parts)


def _baseline_name(key: str) -> str:
    return key.removesuffix("_ms").removesuffix("_bytes").replace("_", " ")


def _baseline_value(key: str, value: Any) -> str:
    number = value.value if isinstance(value, Measurement) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number)
    if key in QUALITY_METRICS or key.removeprefix("test_") in QUALITY_METRICS:
        return f"{100 * number:.2f}%"
    if key.endswith("_bytes"):
        return size_text(number)
    unit = METRICS[key][0] if key in METRICS else "ms" if key.endswith("_ms") else "1"
    return f"{number:.4g}" + ("" if unit == "1" else f" {unit}")
