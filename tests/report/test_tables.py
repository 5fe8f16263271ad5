"""trials.csv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autocompress.core.errors import RunFolderError
from autocompress.core.pareto import ParetoFront
from autocompress.core.trial import Trial
from autocompress.report.tables import latency_ratio, trials_frame, write_trials


def test_one_row_a_trial_in_order(made_up_run: Any) -> None:
    frame = trials_frame(tuple(reversed(made_up_run.trials)))
    assert list(frame["number"]) == list(range(len(made_up_run.trials)))


def test_leading_columns(made_up_run: Any) -> None:
    columns = list(trials_frame(made_up_run.trials, made_up_run.front).columns)
    assert columns[:8] == [
        "number",
        "state",
        "source",
        "label",
        "on_front",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
    ]
    assert {"test_accuracy", "latency_ms_low", "latency_ratio_high", "plan_digest", "error", "seconds_prune"} <= set(
        columns
    )


def test_the_front_is_marked(made_up_run: Any) -> None:
    frame = trials_frame(made_up_run.trials, made_up_run.front)
    assert set(frame.loc[frame["on_front"], "number"]) == {t.number for t in made_up_run.front.trials}


def test_estimates_have_columns_of_their_own(estimated_run: Any) -> None:
    frame = trials_frame(estimated_run.trials)
    assert "latency_ms" not in frame.columns
    assert "latency_ratio" not in frame.columns
    assert set(frame["latency_provenance"].dropna()) == {"estimated"}
    assert frame.loc[0, "estimated_latency_ms"] == 3.2


def test_csv_reads_back(made_up_run: Any, tmp_path: Path) -> None:
    path = write_trials(tmp_path / "trials.csv", made_up_run.trials, made_up_run.front)
    frame = pd.read_csv(path)
    assert list(frame.columns) == list(trials_frame(made_up_run.trials, made_up_run.front).columns)
    assert frame.loc[16, "error"] == made_up_run.trials[16].error
    assert [p.name for p in tmp_path.iterdir()] == ["trials.csv"]


def test_no_trials_is_a_table_without_rows(tmp_path: Path) -> None:
    assert len(trials_frame(())) == 0


def test_an_unwritable_place_is_named(made_up_run: Any, tmp_path: Path) -> None:
    (tmp_path / "no-such-folder").write_text("a file where a folder is wanted")
    with pytest.raises(RunFolderError, match="no-such-folder"):
        write_trials(tmp_path / "no-such-folder" / "trials.csv", made_up_run.trials)


def test_the_interleaved_ratio_wins_over_a_quotient(trial_factory: Callable[..., Trial]) -> None:
    baseline = trial_factory(0, latency_ms=4.0)
    assert latency_ratio(trial_factory(1, latency_ms=1.0, ratio=0.3), baseline) == 0.3
    assert latency_ratio(trial_factory(1, latency_ms=1.0, ratio=None), baseline) == 0.25


def test_an_empty_front_marks_nothing(made_up_run: Any) -> None:
    front = ParetoFront(objectives=made_up_run.objectives, trials=())
    assert not trials_frame(made_up_run.trials, front)["on_front"].any()
