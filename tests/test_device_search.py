"""Searches on a device behind ssh, start to end."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.core.measurement import Provenance
from autocompress.core.request import SearchRequest, SilentObserver
from autocompress.core.trial import Trial, TrialState
from autocompress.hardware.host import host_fingerprint
from autocompress.pipeline import run_search
from autocompress.store.optuna_store import read_trials

NETS = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    ).eval()
"""
TEMPLATE = """
name: small
precisions: [fp32, int8]
ratios: {max_options: 3, min_kept: 0.25}
distillation: {steps: [0, 4], learning_rate: [0.02], temperature: [2.0], batch_size: [32]}
"""


class Watcher(SilentObserver):
    """Remembers messages and trials; does something after the first trial."""

    def __init__(self, after_first: Any = lambda: None) -> None:
        self.messages: list[str] = []
        self.trials: list[Trial] = []
        self.paused = threading.Event()
        self.stop = threading.Event()
        self._after_first = after_first

    def on_message(self, text: str) -> None:
        self.messages.append(text)
        if text.startswith("Paused: "):
            self.paused.set()

    def on_trial(self, trial: Trial, *figures: Any) -> None:
        self.trials.append(trial)
        if len(self.trials) == 1:
            self._after_first()

    def should_stop(self) -> bool:
        return self.stop.is_set()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network, data labelled by it, a small search space, and a probe of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "small.yaml").write_text(TEMPLATE)
    from autocompress.graph.importing import load_model
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    x = np.random.default_rng(0).normal(size=(160, 3, 10, 10)).astype(np.float32)
    logits = OnnxRuntime().build(load_model("nets.py:net", (x[:2],))).run((x,))[0]
    np.savez(tmp_path / "data.npz", x=x, y=logits.argmax(1))
    return tmp_path


def _request(url: str, **changes: Any) -> SearchRequest:
    values: dict[str, Any] = {"model": "nets.py:net", "data": "npz:data.npz", "space": "small.yaml"}
    values |= {"device": url, "trials": 3, "out": Path("run")}
    return SearchRequest(**{**values, **changes})


def test_latencies_are_the_devices_and_carry_the_profiles_name(place: Path, ssh_server: Any) -> None:
    watcher = Watcher()
    core = min(os.sched_getaffinity(0))
    outcome = run_search(_request(ssh_server.url, target="x86-avx512-vnni", affinity=(core,)), watcher)
    assert outcome.provenance is Provenance.MEASURED
    for trial in outcome.front.trials:
        latency = trial.measurements["latency_ms"]
        assert (latency.target, latency.fingerprint) == ("x86-avx512-vnni", host_fingerprint())
        assert latency.samples
        # What the load of other tests disturbed at the end is noted beside the search's own figure.
        assert latency.details.get("disturbed", latency.details)["fresh_process"]
        assert latency.details["affinity"] == [core]
        assert latency.details["outputs"]["difference"] < 1e-3
    assert any(m.startswith(f"Latencies are measured on {ssh_server.url} (") for m in watcher.messages)
    assert (ssh_server.models).is_dir()


def test_a_killed_server_pauses_the_search_which_goes_on_when_it_is_back(place: Path, ssh_server: Any) -> None:
    watcher = Watcher(after_first=ssh_server.kill)

    away = 3.0

    def bring_back() -> None:
        watcher.paused.wait(60)
        time.sleep(away)
        ssh_server.start()

    helper = threading.Thread(target=bring_back)
    helper.start()
    started = time.monotonic()
    outcome = run_search(_request(ssh_server.url), watcher)
    seconds = time.monotonic() - started
    helper.join()
    assert watcher.paused.is_set()
    assert any(m.endswith("going on.") for m in watcher.messages)
    told = [
        re.match(r"The (\d+) s without the device count in no stage and in no --budget\.", m) for m in watcher.messages
    ]
    pauses = [int(found[1]) for found in told if found]
    assert len(pauses) == 1 and pauses[0] >= away
    charged = sum(sum(trial.stage_seconds.values()) for trial in outcome.trials)
    assert charged <= seconds - away
    assert [trial.number for trial in outcome.trials] == [0, 1, 2]
    assert all(trial.state is not TrialState.FAIL for trial in outcome.trials)


def test_a_paused_search_that_is_stopped_resumes_with_what_it_had(place: Path, ssh_server: Any) -> None:
    watcher = Watcher(after_first=ssh_server.kill)

    def stop() -> None:
        watcher.paused.wait(60)
        watcher.stop.set()

    helper = threading.Thread(target=stop)
    helper.start()
    stopped = run_search(_request(ssh_server.url), watcher)
    helper.join()
    assert [trial.number for trial in stopped.trials] == [0]
    assert len(read_trials(place / "run" / "study.db")) == 1
    ssh_server.start()
    resumed = run_search(_request(ssh_server.url))
    assert [trial.number for trial in resumed.trials] == [0, 1, 2]
    assert resumed.trials[0].plan.digest == stopped.trials[0].plan.digest


@pytest.mark.slow
def test_a_search_on_a_board_is_timed_by_the_tool_of_its_runtime(place: Path, ssh_server: Any) -> None:
    # Stands for trtexec: says what the real one said, of an engine that it made.
    tools = place / "tools"
    tools.mkdir()
    captured = Path(__file__).parent / "measure" / "runtimes" / "captured" / "trtexec_8_4.txt"
    (tools / "trtexec").write_text(
        f'''#!/bin/sh
for argument; do
  case "$argument" in
    --saveEngine=*) echo built > "${{argument#*=}}" ;;
    --loadEngine=*) cat "{captured}" ;;
  esac
done
'''
    )
    (tools / "trtexec").chmod(0o755)
    with (ssh_server.folder / "sshd_config").open("a") as file:
        file.write(f'SetEnv "PATH={tools}:/usr/bin:/bin"\n')
    ssh_server.kill()
    ssh_server.start()
    outcome = run_search(_request(ssh_server.url, target="jetson-nano", trials=2))
    assert outcome.provenance is Provenance.MEASURED
    assert [trial.state for trial in outcome.trials] != [TrialState.FAIL] * 2
    latency = outcome.baseline.measurements["latency_ms"]
    assert (latency.value, latency.target) == (pytest.approx(7.14139), "jetson-nano")
    assert latency.runtime.startswith("tensorrt") and latency.runtime.endswith("trtexec")
