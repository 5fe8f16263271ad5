"""What a run folder tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.errors import RunFolderError
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial
from autocompress.outcome import read_space, recommend, record_of, write_space
from autocompress.store.run_dir import RunFolder

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create_or_open(tmp_path / "run", {"model": "demo"})
    folder.close()
    return folder


@pytest.fixture
def trials(trial_factory: Callable[..., Trial]) -> list[Trial]:
    return [
        trial_factory(0, accuracy=0.95, latency_ms=4.0, plan=CompressionPlan()),
        trial_factory(1, accuracy=0.94, latency_ms=2.0),
        trial_factory(2, accuracy=0.90, latency_ms=1.0),
    ]


def test_the_first_recommendation_loses_at_most_a_point(run: RunFolder, trials: list[Trial]) -> None:
    found = recommend(record_of(run, trials, OBJECTIVES, []))
    assert [trial.number for trial in found.values()] == [1, 0, 2]
    assert next(iter(found)) == "fastest with at most 1 point of accuracy lost"


def test_a_limit_of_the_users_replaces_the_usual_one(run: RunFolder, trials: list[Trial]) -> None:
    found = recommend(record_of(run, trials, OBJECTIVES, [Constraint(metric="accuracy", bound=0.89)]))
    assert found["fastest within the accuracy limit"].number == 2


def test_what_cannot_be_met_gives_the_nearest(run: RunFolder, trials: list[Trial]) -> None:
    record = record_of(run, trials, OBJECTIVES, [Constraint(metric="latency_ms", bound=0.5)])
    assert not record.feasible
    assert recommend(record)["nearest to what was asked"].number == 2


def test_size_may_be_what_counts(run: RunFolder, trials: list[Trial]) -> None:
    objectives = (Objective(metric="accuracy"), Objective(metric="size_bytes"))
    assert any(title.startswith("smallest") for title in recommend(record_of(run, trials, objectives, [])))


def test_a_run_without_a_baseline_says_so(run: RunFolder, trials: list[Trial]) -> None:
    with pytest.raises(RunFolderError, match="uncompressed"):
        record_of(run, trials[1:], OBJECTIVES, [])


def test_the_space_reads_back(run: RunFolder, made_up_run: Any) -> None:
    write_space(run, made_up_run.space)
    assert read_space(run) == made_up_run.space
