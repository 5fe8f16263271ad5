"""Bundles that are ready to deploy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.errors import ModelError, RunFolderError, UserError
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial
from autocompress.export.bundle import export_bundle
from autocompress.store.front_keeper import artifact_sha256


def _model(bias: float = 0.5) -> bytes:
    """``y = x + bias`` for ``x`` of shape ``(n, 3)``."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    weight = numpy_helper.from_array(np.full(3, bias, np.float32), "b")
    graph = helper.make_graph([helper.make_node("Add", ["x", "b"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture
def trial(trial_factory: Callable[..., Trial]) -> Trial:
    return trial_factory(7, label="int8", plan=CompressionPlan(prune={"conv1": 0.5}))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    front = folder / "front" / "7"
    front.mkdir(parents=True)
    (folder / "run.yaml").write_text(yaml.safe_dump({"model": "demo"}))
    (folder / "manifest.json").write_text(json.dumps({"seed": 3}))
    (front / "model.onnx").write_bytes(_model())
    (front / "metrics.json").write_text(json.dumps({"sha256": artifact_sha256(front / "model.onnx"), "trial": 7}))
    return folder


def test_everything_is_in_the_folder(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    result = export_bundle(run_dir, trial, tmp_path / "out")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == result["files"] == ["README.md", "manifest.json", "metrics.json", "model.onnx", "plan.json"]


@pytest.mark.parametrize("estimated", [False, True])
def test_threads_are_as_measured_only_where_they_were(
    estimated: bool, run_dir: Path, trial_factory: Callable[..., Trial], tmp_path: Path
) -> None:
    trial = trial_factory(7, estimated=estimated)
    latency = trial.measurements["latency_ms"]
    latency = replace(latency, details={**latency.details, "threads": 4})
    export_bundle(run_dir, trial.replace(measurements={"latency_ms": latency}), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"intra_op_num_threads = 4  # as {'estimated' if estimated else 'measured'}" in text


def test_the_model_is_the_measured_one_byte_for_byte(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    result = export_bundle(run_dir, trial, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (run_dir / "front" / "7" / "model.onnx").read_bytes()
    assert result["sha256"] == artifact_sha256(tmp_path / "out" / "model.onnx")


def test_the_plan_reads_back(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    export_bundle(run_dir, trial, tmp_path / "out")
    assert CompressionPlan.from_json((tmp_path / "out" / "plan.json").read_text()) == trial.plan


def test_the_example_in_the_readme_runs(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    export_bundle(run_dir, trial, tmp_path / "out")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    done = subprocess.run(
        [sys.executable, "-c", code[1] + "print(outputs[0])"], cwd=tmp_path / "out", capture_output=True, text=True
    )
    assert done.stdout.strip() == "[[0.5 0.5 0.5]]", done.stderr


def test_a_changed_artifact_is_refused(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    (run_dir / "front" / "7" / "model.onnx").write_bytes(_model(0.25))
    with pytest.raises(RunFolderError, match="not the file that was measured"):
        export_bundle(run_dir, trial, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_left_alone(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export_bundle(run_dir, trial, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_used(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_bundle(run_dir, trial, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_file_in_the_way_is_named(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is a file"):
        export_bundle(run_dir, trial, tmp_path / "out")


def test_a_trial_off_the_front_is_named(run_dir: Path, trial_factory: Callable[..., Trial], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="front"):
        export_bundle(run_dir, trial_factory(8), tmp_path / "out")


def test_a_folder_without_a_run_is_named(trial: Trial, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        export_bundle(tmp_path, trial, tmp_path / "out")


def test_a_model_that_does_not_load_is_refused(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    front = run_dir / "front" / "7"
    (front / "model.onnx").write_bytes(b"nonsense")
    (front / "metrics.json").write_text(json.dumps({"sha256": artifact_sha256(front / "model.onnx")}))
    with pytest.raises(ModelError, match="does not run"):
        export_bundle(run_dir, trial, tmp_path / "out")


def test_an_output_that_is_not_finite_is_refused(run_dir: Path, trial: Trial, tmp_path: Path) -> None:
    front = run_dir / "front" / "7"
    onnx.save(onnx.load_from_string(_model(float("inf"))), front / "model.onnx")
    (front / "metrics.json").write_text(json.dumps({"sha256": artifact_sha256(front / "model.onnx")}))
    with pytest.raises(ModelError, match="not finite"):
        export_bundle(run_dir, trial, tmp_path / "out")
