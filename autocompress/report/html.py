"""The report: one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from autocompress.core.layer import LayerInfo, PruneGroup, SkipBlock
from autocompress.core.objective import Objective
from autocompress.core.pareto import ParetoFront
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Trial
from autocompress.report import figures
from autocompress.report.fragments import cards, definition_list, front_table, refusal_table, trial_table
from autocompress.report.layerwise import layer_table, split_sensitivities
from autocompress.report.progress import WORST_COST, WORST_LOSS, hypervolume_history
from autocompress.report.wording import axis_title, is_estimated
from autocompress.store.run_dir import atomic_write

#: The page may run its own scripts and nothing else; a request to anywhere is refused by the browser.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(
    path: str | os.PathLike[str],
    *,
    trials: Sequence[Trial],
    front: ParetoFront,
    objectives: Sequence[Objective],
    space: SearchSpace,
    sensitivities: Mapping[str, Mapping[str, float]] | None,
    manifest: Mapping[str, Any],
    baseline: Trial,
    layers: Sequence[LayerInfo],
    groups: Sequence[PruneGroup],
    blocks: Sequence[SkipBlock] = (),
    recommended: Mapping[str, Trial] | None = None,
    title: str = "Compression search",
) -> Path:
    """Write the report, whole or not at all.

    Args:
        path: of the HTML file.
        trials: of the run.
        front: to show.
        objectives: in the user's order.
        space: its refusals are listed.
        sensitivities: choice name to option to KL divergence; None where they were not taken.
        manifest: shown as provenance.
        baseline: the trial of the uncompressed model.
        layers: of the uncompressed graph.
        groups: likewise.
        blocks: likewise.
        recommended: title to trial, for the cards at the top.
        title: of the page.

    Raises:
        RunFolderError: it cannot be written.
    """
    estimated = is_estimated(trials)
    body = [
        _banner(trials) if estimated else "",
        cards(baseline, front, recommended),
        _front_section(trials, front, objectives, baseline),
        _layer_section(front, layers, groups, blocks),
        _progress_section(trials, objectives, baseline, estimated),
        _sensitivity_section(sensitivities or {}),
        _section(
            "All trials",
            "Blue rows are on the front, an orange mark is a baseline; pruned means out of the front's reach.",
            f"<details><summary>{len(trials)} trials</summary>{trial_table(trials, front, baseline)}</details>",
        ),
        refusal_table(space),
        _section(
            "Provenance",
            "What someone else needs to repeat this run. Every measurement with its raw samples is in "
            "<code>study.db</code>, every figure of this page in <code>trials.csv</code>.",
            definition_list({**_provenance(trials, baseline), **manifest}),
        ),
        "<footer>Written by autocompress. This file is complete in itself: it loads nothing from anywhere.</footer>",
    ]
    subtitle = ", ".join(axis_title(o.metric, trials) for o in objectives)
    page = _page(title, f"{len(trials)} trials for {subtitle}", "\n".join(body))
    return atomic_write(Path(path), page.encode())


def _page(title: str, subtitle: str, body: str) -> str:
    css = (files("autocompress.report") / "style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n"
        f"<script>{figures.plotly_script()}</script></head>\n<body>"
        f"<header><div><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></div></header>\n"
        f"<main>{body}</main></body></html>\n"
    )


def _section(title: str, note: str, *content: str) -> str:
    """One block of the page; ``note`` and ``content`` are HTML."""
    remark = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{remark}{''.join(content)}</section>"


def _banner(trials: Sequence[Trial]) -> str:
    sample = next(t.measurements["latency_ms"] for t in trials if "latency_ms" in t.measurements)
    by = f" ({escape(sample.fingerprint)})" if sample.fingerprint else ""
    return (
        f'<div class="banner"><b>Latencies are estimated</b> from the profile of {escape(sample.target)}{by}; '
        "no such device was attached. Accuracies and sizes are those of the real files.</div>"
    )


def _front_section(
    trials: Sequence[Trial], front: ParetoFront, objectives: Sequence[Objective], baseline: Trial
) -> str:
    if not front.trials:
        return _section("Pareto front", "No trial completed; the table of trials says why.")
    y = objectives[0]
    others = list(objectives[1:]) or [Objective(metric=_second_metric(front, y))]
    drawn = "".join(
        figures.to_div(figures.front_figure(trials, front, x, y), f"figure-front-{index}")
        for index, x in enumerate(others)
    )
    word = "estimated latency" if is_estimated(trials) else "latency"
    bars = "Bars are 95% intervals"
    if is_estimated(trials):
        bars += " of the quality and the estimator's error"
    cost = word if [o.metric for o in others] == ["latency_ms"] else "each cost"
    note = (
        f"Each point is one file that can be shipped: {escape(y.metric)} against {cost}. "
        f"{bars}; circles are the same files on the test set, which the search never saw. "
        "Trials outside the frame appear on a double click."
    )
    title = "Pareto front" + (" (estimated latencies)" if is_estimated(trials) else "")
    return _section(title, note, drawn, front_table(front, baseline))


def _second_metric(front: ParetoFront, first: Objective) -> str:
    metrics = [m for m in ("latency_ms", "size_bytes") if m != first.metric]
    return next(m for m in metrics if all(m in t.measurements for t in front.trials))


def _layer_section(
    front: ParetoFront, layers: Sequence[LayerInfo], groups: Sequence[PruneGroup], blocks: Sequence[SkipBlock]
) -> str:
    if not front.trials or not layers:
        return ""
    figure = figures.layer_figure(layer_table(front.trials, layers, groups, blocks))
    note = (
        "One column a front point, one row a layer in the graph's order. Rows without a number cannot be pruned; "
        "the layers of a skipped block are gone."
    )
    return _section("Layer by layer", note, figures.to_div(figure, "figure-layers"))


def _progress_section(
    trials: Sequence[Trial], objectives: Sequence[Objective], baseline: Trial, estimated: bool
) -> str:
    figure = figures.hypervolume_figure(hypervolume_history(trials, objectives, baseline), estimated)
    note = (
        "Share of the box between the reference point and the ideal that the front dominates. The reference is "
        f"{100 * WORST_LOSS:.0f} points of quality under, and {WORST_COST:g} times the cost of, the uncompressed model."
    )
    title = "Hypervolume over trials" + (" (estimated latencies)" if estimated else "")
    return _section(title, note, figures.to_div(figure, "figure-hypervolume"))


def _sensitivity_section(sensitivities: Mapping[str, Mapping[str, float]]) -> str:
    kinds = split_sensitivities(sensitivities)
    if not kinds:
        return ""
    titles = {
        "precision": "Fewer bits in one layer",
        "ratio": "Channels removed from one group, not healed",
        "skip": "One residual block skipped, not healed",
    }
    parts = []
    for kind, subjects in kinds.items():
        figure = figures.sensitivity_figure(subjects, kind)
        parts.append(f"<h3>{escape(titles.get(kind, kind))}</h3>{figures.to_div(figure, f'figure-sensitivity-{kind}')}")
    note = "How far the model's outputs move when one choice is changed and everything else is left as it came."
    return _section("Sensitivities", note, *parts)


def _provenance(trials: Sequence[Trial], baseline: Trial) -> dict[str, Any]:
    found = baseline.measurements.get("latency_ms") or next(
        (t.measurements["latency_ms"] for t in trials if "latency_ms" in t.measurements), None
    )
    if found is None:
        return {}
    return {
        "latency": f"{found.provenance.value} on {found.target}",
        "runtime": found.runtime,
        "fingerprint": found.fingerprint,
        "threads": found.details.get("threads"),
    }
