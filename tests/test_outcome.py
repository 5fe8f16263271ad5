"""What a run folder tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from autocompress.core.errors import RunFolderError
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial
from autocompress.graph.model_graph import ModelGraph
from autocompress.outcome import read_space, recommend, record_of, write_space
from autocompress.store.front_keeper import FrontKeeper
from autocompress.store.run_dir import RunFolder

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create_or_open(tmp_path / "run", {"model": "demo"})
    folder.close()
    return folder


@pytest.fixture
def made_up_graph() -> ModelGraph:
    """``y = relu(x)``: what the artifacts hold does not matter here."""
    x = ir.Value(name="x", shape=ir.Shape(["n", 2]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Relu", [x], name="relu")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "y", x.shape, x.type
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 21}, name="g")
    return ModelGraph(ir.Model(graph, ir_version=10))


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


def test_of_equally_fast_points_the_best_is_recommended(
    run: RunFolder, trials: list[Trial], trial_factory: Callable[..., Trial]
) -> None:
    # Intervals are 2% to each side.
    longer = trial_factory(3, accuracy=0.945, latency_ms=2.05)
    slower = trial_factory(4, accuracy=0.947, latency_ms=2.2)
    found = recommend(record_of(run, [*trials, longer, slower], OBJECTIVES, []))
    assert [trial.number for trial in found.values()] == [3, 0, 2]


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


def test_a_stopped_search_shows_what_was_found_since_the_last_one_ended(
    run: RunFolder, trials: list[Trial], made_up_graph: ModelGraph
) -> None:
    keeper = FrontKeeper(run, objectives=OBJECTIVES)
    for trial in trials[:2]:
        keeper.keep(trial, made_up_graph)
    keeper.finish(trials[:2])
    assert [t.number for t in record_of(run, trials[:2], OBJECTIVES, []).front.trials] == [1, 0]
    keeper.keep(trials[2], made_up_graph)
    assert [t.number for t in record_of(run, trials, OBJECTIVES, []).front.trials] == [2, 1, 0]
