"""A search whose latencies are TVM's, from start to end: real compiling, real tuning of a few kernels."""

from __future__ import annotations

import importlib.util
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.errors import TargetError, UserError
from autocompress.core.measurement import Provenance
from autocompress.core.request import SearchRequest, SilentObserver
from autocompress.core.trial import Trial, TrialState
from autocompress.hardware.host import host_fingerprint
from autocompress.measure.cache import CACHE_VARIABLE
from autocompress.pipeline import run_search

needs_tvm = pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="TVM is not installed")


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Model and data of a small search; nothing of the user's cache is read."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    rng = np.random.default_rng(2)
    arrays = {
        "a.weight": rng.normal(0, 0.4, (16, 1, 3, 3)),
        "a.bias": rng.normal(0, 0.1, 16),
        "fc.weight": rng.normal(0, 0.2, (3, 576)),
        "fc.bias": np.zeros(3),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["a"], name="a"),
            helper.make_node("Relu", ["a"], ["r"], name="r"),
            helper.make_node("Flatten", ["r"], ["f"], name="f"),
            helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "small.onnx").write_bytes(model.SerializeToString())
    x = rng.normal(size=(96, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=rng.integers(0, 3, 96))
    return {"model": str(tmp_path / "small.onnx"), "data": f"npz:{tmp_path / 'data.npz'}"}


@needs_tvm
@pytest.mark.slow
def test_a_search_compiles_tunes_and_compares_in_tvm(request_of: dict[str, str], tmp_path: Path) -> None:
    request = SearchRequest(**request_of, runtime="tvm", tune_trials=2, trials=2, out=tmp_path / "run")
    outcome = run_search(request)
    complete = [trial for trial in outcome.trials if trial.state is TrialState.COMPLETE]
    assert len(complete) == 2
    for trial in outcome.front.trials:
        latency = trial.measurements["latency_ms"]
        assert latency.runtime.startswith("tvm 0.")
        assert latency.details["schedules"]["untuned"] == 0
        assert latency.details["outputs"]["difference"] <= latency.details["outputs"]["tolerance"]


class Watcher(SilentObserver):
    """Remembers messages; does something after the first trial."""

    def __init__(self, after_first: Callable[[Trial], None]) -> None:
        self.messages: list[str] = []
        self._after_first: Callable[[Trial], None] | None = after_first

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_trial(self, trial: Trial, *figures: Any) -> None:
        act, self._after_first = self._after_first, None
        if act is not None:
            act(trial)


def _server_of(trial: Trial) -> int:
    return int(trial.measurements["latency_ms"].details["server"].rpartition(":")[2])


@needs_tvm
@pytest.mark.slow
def test_a_search_through_a_tracker_survives_one_of_its_two_servers(
    request_of: dict[str, str], tmp_path: Path, tvm_servers: Any
) -> None:
    tvm_servers.start_tracker()
    ports = tvm_servers.start(2, key="searched")
    watcher = Watcher(lambda trial: tvm_servers.kill(_server_of(trial)))
    request = SearchRequest(
        **request_of,
        runtime="tvm",
        device=tvm_servers.url(key="searched"),
        tune_trials=2,
        trials=2,
        out=tmp_path / "run",
    )
    outcome = run_search(request, watcher)
    assert [trial.number for trial in outcome.trials] == [0, 1]
    assert all(trial.state is not TrialState.FAIL for trial in outcome.trials)
    (killed,), (left,) = set(ports) - set(tvm_servers.agents), list(tvm_servers.agents)
    # It is missed while kernels are tuned on both, or by the next model.
    gone = [message for message in watcher.messages if message.startswith(f"The TVM server at 127.0.0.1:{killed} is")]
    assert re.fullmatch(rf".* is gone\. Going on with(out it| 127\.0\.0\.1:{left})\.", *gone)
    assert not any(message.startswith("Paused") for message in watcher.messages)
    for trial in outcome.front.trials:
        latency = trial.measurements["latency_ms"]
        assert (latency.provenance, latency.fingerprint) == (Provenance.MEASURED, host_fingerprint())
        assert latency.details["schedules"]["untuned"] == 0
        # What the load of other tests disturbed at the end is noted beside the search's own figure.
        again = latency.details.get("disturbed", latency.details)
        assert again["fresh_process"] and again["server"].endswith(f":{left}")
        assert latency.details["outputs"]["difference"] <= latency.details["outputs"]["tolerance"]


@needs_tvm
@pytest.mark.slow
def test_a_search_pauses_while_its_one_server_is_away(
    request_of: dict[str, str], tmp_path: Path, tvm_servers: Any
) -> None:
    (port,) = tvm_servers.start()
    helper = threading.Thread(target=lambda: (time.sleep(2.0), tvm_servers.start(port=port)))

    def restart(trial: Trial) -> None:
        tvm_servers.kill(port)
        helper.start()

    watcher = Watcher(restart)
    request = SearchRequest(
        **request_of, runtime="tvm", device=tvm_servers.url(port), tune_trials=0, trials=2, out=tmp_path / "run"
    )
    outcome = run_search(request, watcher)
    helper.join()
    assert all(trial.state is not TrialState.FAIL for trial in outcome.trials)
    (paused,) = (message for message in watcher.messages if message.startswith("Paused"))
    assert f"127.0.0.1:{port}" in paused
    assert any(message.startswith(f"tvm-rpc://127.0.0.1:{port} is back after") for message in watcher.messages)


def test_a_tvm_server_is_measured_with_tvm(request_of: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="serves TVM and no onnxruntime: add --runtime tvm"):
        run_search(
            SearchRequest(**request_of, runtime="onnxruntime", device="tvm-rpc://127.0.0.1:1", out=tmp_path / "run")
        )


def test_tuning_goes_with_a_runtime_that_compiles(request_of: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="go with --runtime tvm"):
        run_search(SearchRequest(**request_of, tune_trials=2, trials=1, out=tmp_path / "run"))
