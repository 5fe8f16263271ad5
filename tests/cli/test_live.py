"""What a search shows while it runs and when it is done."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autocompress.cli.live import LATEST, LiveWatcher, SearchWatcher, make_observer
from autocompress.core.measurement import Provenance
from autocompress.core.pareto import ParetoFront
from autocompress.core.request import SearchOutcome, SearchRequest
from autocompress.core.trial import Trial, TrialState

REQUEST = SearchRequest(budget_seconds=180.0)


def _outcome(run: Any, provenance: Provenance, **changes: Any) -> SearchOutcome:
    outcome = SearchOutcome(
        run_dir=Path("runs/demo"),
        front=run.front,
        trials=run.trials,
        recommended={"best": run.front.trials[-1], "fastest": run.front.trials[0]},
        metric="accuracy",
        provenance=provenance,
        baseline=run.baseline,
        messages=["The time budget is spent."],
    )
    return replace(outcome, **changes)


def _watch(run: Any, watcher: SearchWatcher, trials: int = 8) -> None:
    with watcher:
        watcher.on_space(run.space, {"accuracy": 0.946, "latency_ms": 3.2, "size_bytes": 1.09e6})
        for index, trial in enumerate(run.trials[:trials]):
            watcher.on_stage(trial.number, trial.candidate.label, "accuracy")
            front = ParetoFront.of(run.trials[: index + 1], run.objectives)
            watcher.on_trial(trial, front, 0.5, float(index), 180.0)


def test_no_terminal_means_plain_lines() -> None:
    assert type(make_observer(REQUEST)) is SearchWatcher


def test_plain_lines_hold_one_trial_each(made_up_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _watch(made_up_run, SearchWatcher(REQUEST))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial ")]
    assert len(lines) == 8
    assert "ratio 0.500" in lines[1]
    assert "stopped: out of reach" in lines[5]
    assert "2:53 left" in lines[7]


def test_refusals_are_said_before_anything_is_spent(estimated_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _watch(estimated_run, SearchWatcher(REQUEST), trials=0)
    assert "refused int8 (22 times): no fast int8 on this GPU" in capsys.readouterr().out


def test_estimates_are_called_estimates_in_every_line(estimated_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    watcher = SearchWatcher(REQUEST)
    _watch(estimated_run, watcher)
    watcher.on_done(_outcome(estimated_run, Provenance.ESTIMATED))
    shown = capsys.readouterr().out.replace("for accuracy, latency_ms", "").replace("Uncompressed: ", "")
    for line in shown.splitlines():
        if "latency" in line and "latency 3.2 ms" not in line:
            assert "estimated" in line, line


def test_the_result_names_report_and_next_command(made_up_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    SearchWatcher(REQUEST).on_done(_outcome(made_up_run, Provenance.MEASURED))
    shown = capsys.readouterr().out
    number = made_up_run.front.trials[-1].number
    assert "runs/demo/report.html" in shown
    assert f"autocompress export runs/demo --pick {number} --out exported" in shown


def test_the_result_lists_every_front_point(made_up_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    SearchWatcher(REQUEST).on_done(_outcome(made_up_run, Provenance.MEASURED))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    numbers = {row[0] for row in rows if row and row[0].isdigit()}
    assert numbers == {str(t.number) for t in made_up_run.front.trials}


def test_an_empty_front_says_where_to_look(made_up_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    empty = ParetoFront(objectives=made_up_run.objectives, trials=())
    SearchWatcher(REQUEST).on_done(_outcome(made_up_run, Provenance.MEASURED, front=empty, recommended={}))
    assert "No trial completed" in capsys.readouterr().out


def test_the_live_table_shows_the_latest_trials_and_the_running_stage(made_up_run: Any) -> None:
    watcher = LiveWatcher(REQUEST)
    _watch(made_up_run, watcher, trials=20)
    watcher.on_stage(20, "prune 25% + int8", "heal")
    out = io.StringIO()
    Console(file=out, width=140).print(watcher._render())
    lines = out.getvalue().splitlines()
    assert sum(line.strip().split(" ")[0].isdigit() for line in lines if line.strip()) >= LATEST + 1
    assert any("heal" in line and "running" in line for line in lines)
    assert "front" in lines[-1]
    assert "left" in lines[-1]


def test_a_label_with_markup_is_shown_as_it_is(
    trial_factory: Callable[..., Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    trial = trial_factory(0, label="[bold]x[/nope]", state=TrialState.FAIL, error="build: [red]no[/blue]")
    watcher = SearchWatcher(REQUEST)
    watcher.on_trial(trial, ParetoFront(objectives=(), trials=()), 0.0, 1.0, None)
    shown = capsys.readouterr().out
    assert "[bold]x[/nope]" in shown
    assert "FAILED: build: [red]no[/blue]" in shown
