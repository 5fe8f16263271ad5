"""Searches, start to end, on a small residual network from a user's file."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from autocompress.core.errors import RunFolderError, UserError
from autocompress.core.measurement import Provenance
from autocompress.core.request import SearchRequest, SilentObserver
from autocompress.core.trial import Trial, TrialState
from autocompress.outcome import read_run
from autocompress.pipeline import run_search
from autocompress.store.optuna_store import read_trials
from autocompress.store.run_dir import RunFolder

NETS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + 0.3 * self.conv2(torch.relu(self.conv1(x))))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), Block(32), Block(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    ).eval()
"""
TEMPLATE = """
name: small
precisions: [fp32, int8]
ratios: {max_options: 3, min_kept: 0.25}
distillation: {steps: [0, 4, 8], learning_rate: [0.02], temperature: [2.0], batch_size: [32]}
"""


class Recorder(SilentObserver):
    """Remembers trials and messages, and asks to stop after some trials."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.trials: list[Trial] = []
        self.messages: list[str] = []
        self._stop_after = stop_after

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_trial(self, trial: Trial, *figures: Any) -> None:
        self.trials.append(trial)

    def should_stop(self) -> bool:
        return self._stop_after is not None and len(self.trials) >= self._stop_after


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network, data labelled by that very network, and a small search space."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "small.yaml").write_text(TEMPLATE)
    from autocompress.graph.importing import load_model
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    x = np.random.default_rng(0).normal(size=(240, 3, 10, 10)).astype(np.float32)
    logits = OnnxRuntime().build(load_model("nets.py:net", (x[:2],))).run((x,))[0]
    np.savez(tmp_path / "data.npz", x=x, y=logits.argmax(1))
    return tmp_path


def _request(**changes: Any) -> SearchRequest:
    values: dict[str, Any] = {
        "model": "nets.py:net",
        "data": "npz:data.npz",
        "target": "local",
        "space": "small.yaml",
        "trials": 8,
        "out": Path("run"),
    }
    return SearchRequest(**{**values, **changes})


@pytest.mark.slow
def test_every_artifact_runs_in_plain_onnxruntime_with_the_stated_accuracy(place: Path) -> None:
    outcome = run_search(_request(trials=10))
    assert outcome.front.trials
    with np.load(place / "data.npz") as data:
        x, y = data["x"], data["y"]
    order = np.random.default_rng(0).permutation(len(x))
    parts = dict(zip(("train", "validation", "test"), np.split(order, [144, 192]), strict=True))
    for trial in outcome.front.trials:
        folder = place / "run" / "front" / str(trial.number)
        session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        found = {
            part: float(np.mean(session.run(None, {session.get_inputs()[0].name: x[rows]})[0].argmax(1) == y[rows]))
            for part, rows in parts.items()
        }
        assert trial.value("accuracy") == pytest.approx(found["validation"], abs=1e-9)
        assert trial.measurements["accuracy"].details["test"] == pytest.approx(found["test"], abs=1e-9)
        assert trial.value("size_bytes") == (folder / "model.onnx").stat().st_size


@pytest.mark.slow
def test_the_front_is_measured_again_in_fresh_processes(place: Path) -> None:
    outcome = run_search(_request(trials=4))
    for trial in outcome.front.trials:
        latency = trial.measurements["latency_ms"]
        assert latency.provenance is Provenance.MEASURED
        # What the load of other tests disturbed at the end is noted beside the search's own figure.
        assert latency.details.get("disturbed", latency.details)["fresh_process"]
        assert "searched" in latency.details
        assert latency.samples
        assert latency.fingerprint


def test_a_board_that_is_not_attached_gives_estimates_and_no_int8(place: Path) -> None:
    recorder = Recorder()
    outcome = run_search(_request(target="jetson-nano", trials=6), recorder)
    assert outcome.provenance is Provenance.ESTIMATED
    assert any("ESTIMATED" in text for text in recorder.messages)
    assert all(m.activation_bits != 8 for t in outcome.trials for m in t.plan.layers.values())
    with (place / "run" / "trials.csv").open(newline="") as file:
        columns = csv.DictReader(file).fieldnames or []
    assert "estimated_latency_ms" in columns
    assert "latency_ms" not in columns


def test_an_impossible_bound_ends_with_the_nearest(place: Path) -> None:
    outcome = run_search(_request(target="jetson-nano", trials=4, max_latency_ms=1e-6))
    assert outcome.front.trials
    assert list(outcome.recommended) == ["nearest to what was asked"]
    assert any("nearest are shown" in message for message in outcome.messages)


def test_a_request_to_stop_keeps_what_is_done_and_resumes(place: Path) -> None:
    request = _request(target="jetson-nano", trials=6)
    stopped = run_search(request, Recorder(stop_after=2))
    assert len(stopped.trials) == 2
    assert any("asked to stop" in message for message in stopped.messages)
    resumed = Recorder()
    outcome = run_search(request, resumed)
    assert [trial.number for trial in outcome.trials] == list(range(6))
    assert [trial.number for trial in resumed.trials] == [2, 3, 4, 5]
    again = Recorder()
    run_search(request, again)
    assert again.trials == [], "a finished search has nothing left to do"


def test_a_resumed_search_goes_the_way_of_one_that_ran_through(place: Path) -> None:
    whole = run_search(_request(target="jetson-nano", trials=8, out=Path("whole")))
    run_search(_request(target="jetson-nano", trials=8, out=Path("parts")), Recorder(stop_after=3))
    parts = run_search(_request(target="jetson-nano", trials=8, out=Path("parts")))
    assert [t.plan.digest for t in parts.trials] == [t.plan.digest for t in whole.trials]


@pytest.mark.slow
def test_a_killed_search_loses_the_trial_in_flight_at_most(place: Path) -> None:
    command = [sys.executable, "-m", "autocompress", "search", "--model", "nets.py:net", "--data", "npz:data.npz"]
    command += ["--target", "jetson-nano", "--space", "small.yaml", "--trials", "30", "--out", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    shown = 0
    with process.stdout:
        for line in process.stdout:
            shown += line.startswith("trial ")
            if shown == 3:
                os.kill(process.pid, signal.SIGKILL)
                break
    process.wait(60)
    stored = read_trials(place / "run" / "study.db")
    assert len(stored) >= 3
    assert all(trial.state is not TrialState.FAIL for trial in stored)
    outcome = run_search(_request(target="jetson-nano", trials=len(stored) + 2))
    assert [t.plan.digest for t in outcome.trials][: len(stored)] == [t.plan.digest for t in stored]
    assert len(outcome.trials) == len(stored) + 2


def test_the_same_folder_refuses_another_search(place: Path) -> None:
    run_search(_request(target="jetson-nano", trials=1))
    with pytest.raises(RunFolderError, match="seed"):
        run_search(_request(target="jetson-nano", trials=1, seed=1))


def test_data_that_changed_under_the_same_name_is_noticed(place: Path) -> None:
    run_search(_request(target="jetson-nano", trials=1))
    with np.load(place / "data.npz") as data:
        x, y = data["x"], data["y"]
    np.savez(place / "data.npz", x=x + 1, y=y)
    with pytest.raises(RunFolderError, match="data changed"):
        run_search(_request(target="jetson-nano", trials=1))


def test_without_out_the_same_command_finds_its_folder(place: Path) -> None:
    first = run_search(_request(target="jetson-nano", trials=1, out=None))
    assert first.run_dir == Path("runs/nets-py-net-jetson-nano")
    assert run_search(_request(target="jetson-nano", trials=2, out=None)).run_dir == first.run_dir
    other = run_search(_request(target="jetson-nano", trials=1, seed=5, out=None))
    assert other.run_dir == Path("runs/nets-py-net-jetson-nano-2")


def test_a_finished_run_reads_back_as_it_ended(place: Path) -> None:
    outcome = run_search(_request(target="jetson-nano", trials=5))
    record = read_run(RunFolder.read("run"))
    assert [t.number for t in record.front.trials] == [t.number for t in outcome.front.trials]
    assert [t.to_dict() for t in _measured(record.front.trials)] == [
        t.to_dict() for t in _measured(outcome.front.trials)
    ]


def test_fidelity_may_be_asked_for_where_there_are_labels(place: Path) -> None:
    outcome = run_search(_request(target="jetson-nano", trials=2, objectives=("fidelity", "latency_ms")))
    assert outcome.metric == "fidelity"
    assert outcome.baseline.value("fidelity") == 1.0


def test_an_objective_that_nothing_measures_is_refused_before_anything_is_spent(place: Path) -> None:
    with pytest.raises(UserError, match="'macs' is not measured"):
        run_search(_request(objectives=("accuracy", "macs")))
    assert not (place / "run").exists()


def test_a_time_budget_is_kept(place: Path) -> None:
    started = time.monotonic()
    outcome = run_search(_request(target="jetson-nano", trials=None, budget_seconds=6.0))
    assert len(outcome.trials) >= 1
    assert time.monotonic() - started < 60, "generous: the machine may be busy"
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["objectives"] == ["accuracy", "latency_ms"]


def _measured(trials: tuple[Trial, ...]) -> list[Any]:
    return [m for trial in trials for m in trial.measurements.values()]


def test_memory_and_energy_of_a_board_are_estimated_objectives_with_bounds(place: Path) -> None:
    recorder = Recorder()
    objectives = ("accuracy", "energy_mj", "peak_memory_bytes")
    outcome = run_search(
        _request(target="jetson-nano", trials=4, objectives=objectives, max_memory_mb=50.0, max_energy_mj=5.0), recorder
    )
    for trial in outcome.front.trials:
        found = [trial.measurements[metric] for metric in ("energy_mj", "peak_memory_bytes")]
        assert all(m.provenance is Provenance.ESTIMATED for m in found)
        assert found[0].value <= 5.0 and found[1].value <= 50e6
    assert sum("ESTIMATED" in text for text in recorder.messages) == 3
    with (place / "run" / "trials.csv").open(newline="") as file:
        columns = csv.DictReader(file).fieldnames or []
    assert {"estimated_energy_mj", "estimated_peak_memory_bytes"} <= set(columns)
    assert not {"energy_mj", "peak_memory_bytes"} & set(columns)
    page = (place / "run" / "report.html").read_text()
    assert "estimated energy (mJ)" in page and "estimated peak memory (MB)" in page


@pytest.mark.slow
def test_memory_here_is_measured_in_fresh_processes(place: Path) -> None:
    outcome = run_search(_request(trials=3, objectives=("accuracy", "latency_ms", "peak_memory_bytes")))
    for trial in outcome.front.trials:
        memory = trial.measurements["peak_memory_bytes"]
        assert memory.provenance is Provenance.MEASURED and memory.details["fresh_process"]
        assert len(memory.samples) == 3


def test_what_was_measured_is_not_estimated_in_a_later_session(place: Path) -> None:
    request = _request(target="jetson-nano", trials=2, objectives=("accuracy", "energy_mj"))
    run_search(request)
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert manifest["provenance"] == {"energy_mj": "estimated"}
    manifest["provenance"]["energy_mj"] = "measured"
    (place / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match=r"energy_mj is measured in .* and would be estimated now"):
        run_search(request)


@pytest.mark.parametrize(("what", "other"), [("host", "another board"), ("runtime", "onnxruntime 1.2.0 cpu")])
def test_latencies_of_two_machines_or_runtimes_do_not_mix(place: Path, what: str, other: str) -> None:
    run_search(_request(trials=1))
    path = place / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest[what]
    path.write_text(json.dumps({**manifest, what: other}))
    with pytest.raises(RunFolderError, match=rf"was measured on '{other}', but this is .* do not mix"):
        run_search(_request(trials=2))
