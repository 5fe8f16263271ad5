"""Artifacts of the trials that are on the front."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial
from autocompress.graph.model_graph import ModelGraph
from autocompress.store.front_keeper import FrontKeeper, artifact_sha256, final_trial, read_metrics
from autocompress.store.run_dir import RunFolder

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
REQUEST = {"model": "demo", "seed": 0}


def _graph(bias: float) -> ModelGraph:
    x = ir.Value(name="x", shape=ir.Shape(["n", 2]), type=ir.TensorType(ir.DataType.FLOAT))
    array = np.full(2, bias, np.float32)
    b = ir.Value(name="b", const_value=ir.tensor(array, name="b"), type=ir.TensorType(ir.DataType.FLOAT))
    b.shape = ir.Shape([2])
    node = ir.Node("", "Add", [x, b], name="add")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "y", x.shape, x.type
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], initializers=[b], opset_imports={"": 21}, name="g")
    return ModelGraph(ir.Model(graph, ir_version=10))


@pytest.fixture(params=["absolute", "relative"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """A run folder named by an absolute and by a relative path."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create_or_open(tmp_path / "run" if request.param == "absolute" else "run", REQUEST)
    yield folder
    folder.close()


def _kept(run: RunFolder) -> set[str]:
    return {path.name for path in run.front.iterdir()} if run.front.is_dir() else set()


def test_a_front_trial_is_written_with_its_plan_and_digest(run: RunFolder, trial_factory: Callable[..., Trial]) -> None:
    trial = trial_factory(0, plan=CompressionPlan(prune={"a": 0.5}))
    FrontKeeper(run, objectives=OBJECTIVES).keep(trial, _graph(1.0))
    folder = run.path / "front" / "0"
    content = (folder / "model.onnx").read_bytes()
    assert content == _graph(1.0).to_bytes()
    assert CompressionPlan.from_json((folder / "plan.json").read_text()) == trial.plan
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["sha256"] == hashlib.sha256(content).hexdigest()
    assert not metrics["final"]


def test_a_dominated_artifact_goes(run: RunFolder, trial_factory: Callable[..., Trial]) -> None:
    keeper = FrontKeeper(run, objectives=OBJECTIVES)
    keeper.keep(trial_factory(0, accuracy=0.9, latency_ms=2.0), _graph(0))
    keeper.keep(trial_factory(1, accuracy=0.8, latency_ms=1.0), _graph(1))
    assert _kept(run) == {"0", "1"}
    keeper.keep(trial_factory(2, accuracy=0.95, latency_ms=1.0), _graph(2))
    assert _kept(run) == {"2"}
    keeper.keep(trial_factory(3, accuracy=0.5, latency_ms=3.0), _graph(3))
    assert _kept(run) == {"2"}


def test_with_constraints_what_breaks_them_goes(run: RunFolder, trial_factory: Callable[..., Trial]) -> None:
    bound = Constraint(metric="accuracy", bound=0.85)
    keeper = FrontKeeper(run, objectives=OBJECTIVES, constraints=[bound])
    keeper.keep(trial_factory(0, accuracy=0.5, latency_ms=1.0), _graph(0))
    assert _kept(run) == {"0"}, "the nearest miss is kept while nothing fits"
    keeper.keep(trial_factory(1, accuracy=0.9, latency_ms=2.0), _graph(1))
    assert _kept(run) == {"1"}


def test_an_artifact_whose_trial_was_never_stored_is_removed(
    run: RunFolder, trial_factory: Callable[..., Trial]
) -> None:
    FrontKeeper(run, objectives=OBJECTIVES).keep(trial_factory(0), _graph(0))
    keeper = FrontKeeper(run, objectives=OBJECTIVES, history=[])
    assert _kept(run) == set()
    assert keeper.finalists() == []


def test_last_figures_come_back_in_a_later_session(run: RunFolder, trial_factory: Callable[..., Trial]) -> None:
    trial = trial_factory(0, latency_ms=2.0)
    keeper = FrontKeeper(run, objectives=OBJECTIVES)
    keeper.keep(trial, _graph(0))
    slower = replace(trial.measurements["latency_ms"], value=2.2)
    last = trial.replace(measurements={**trial.measurements, "latency_ms": slower})
    sha256 = (read_metrics(run, 0) or {})["sha256"]
    keeper.finish([last])
    later = FrontKeeper(run, objectives=OBJECTIVES, history=[trial])
    found, path = later.finalists()[0]
    assert path.is_file()
    assert later.is_final(trial)
    assert found.value("latency_ms") == 2.2
    assert (read_metrics(run, 0) or {})["sha256"] == sha256


def test_figures_of_another_plan_are_not_taken(run: RunFolder, trial_factory: Callable[..., Trial]) -> None:
    keeper = FrontKeeper(run, objectives=OBJECTIVES)
    trial = trial_factory(0, plan=CompressionPlan(prune={"a": 0.5}))
    keeper.keep(trial, _graph(0))
    keeper.finish([trial])
    assert final_trial(run, trial) is not None
    assert final_trial(run, trial_factory(0, plan=CompressionPlan(prune={"a": 0.25}))) is None


def test_finishing_removes_what_fell_off_the_front(run: RunFolder, trial_factory: Callable[..., Trial]) -> None:
    keeper = FrontKeeper(run, objectives=OBJECTIVES)
    first, second = trial_factory(0, accuracy=0.9, latency_ms=2.0), trial_factory(1, accuracy=0.8, latency_ms=1.0)
    keeper.keep(first, _graph(0))
    keeper.keep(second, _graph(1))
    keeper.finish([first])
    assert _kept(run) == {"0"}


def test_what_the_last_figures_overtake_is_set_aside_and_comes_back_for_other_constraints(
    run: RunFolder, trial_factory: Callable[..., Trial]
) -> None:
    better = trial_factory(0, accuracy=0.95, latency_ms=1.0)
    lucky = trial_factory(1, accuracy=0.94, latency_ms=0.9)
    keeper = FrontKeeper(run, objectives=OBJECTIVES)
    keeper.keep(better, _graph(1.0))
    keeper.keep(lucky, _graph(2.0))
    keeper.finish([better, trial_factory(1, accuracy=0.94, latency_ms=1.1)])
    assert _kept(run) == {"0"}
    assert (run.overtaken / "1" / "model.onnx").is_file()
    again = FrontKeeper(run, objectives=OBJECTIVES, history=[better, lucky])
    assert {t.number: t.value("latency_ms") for t, _ in again.finalists()} == {0: 1.0, 1: 1.1}
    assert again.pending == 0
    other = FrontKeeper(
        run, objectives=OBJECTIVES, constraints=[Constraint(metric="accuracy", bound=0.93)], history=[better, lucky]
    )
    other.finish([trial_factory(1, accuracy=0.94, latency_ms=1.1)])
    assert _kept(run) == {"1"}


def test_a_models_weights_beside_it_are_part_of_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = _graph(1.0)
    graph.save(path)
    alone = artifact_sha256(path)
    assert alone == hashlib.sha256(path.read_bytes()).hexdigest()
    graph.save(path, max_bytes=0)
    beside = (tmp_path / "model.onnx.data").read_bytes()
    assert artifact_sha256(path) == hashlib.sha256(path.read_bytes() + beside).hexdigest()
