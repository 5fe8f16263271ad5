"""The device side, spoken to as a device would be."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.measure import agent, agent_facts, agent_store, rounds
from autocompress.measure.agent_store import Store, StoreError, files_digest, locked
from autocompress.measure.device import SentModel

POLICY = {
    "block_ms": 2.0,
    "half_width": 0.2,
    "max_seconds": 0.4,
    "min_blocks": 4,
    "calm_tolerance": 0.1,
    "warmup_seconds": 0.02,
    "confidence": 0.95,
    "patience": 1.0,
    "calm_ms": None,
    "shortest_block_ms": None,
}


class Talk:
    """One agent process, line by line."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "autocompress.measure.agent", "--folder", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--lock", str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.hear()["autocompress"] == "ready"

    def say(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found = json.loads(self.process.stdout.readline())
        assert isinstance(found, dict)
        return found

    def ask(self, request: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
        self.say(json.dumps({"id": 1, **request, "bytes": len(payload)}).encode() + b"\n" + payload)
        return self.hear()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait(10)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    found = Talk(tmp_path)
    yield found
    found.close()


def npz(*arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{f"input_{index}": array for index, array in enumerate(arrays)})
    return buffer.getvalue()


def put(talk: Talk, data: bytes) -> str:
    model = SentModel.of({"model.onnx": data})
    assert talk.ask({"command": "put", "model": model.digest, "files": list(model.files)}, data)["ok"]
    return model.digest


@pytest.mark.parametrize("module", [agent, agent_facts, agent_store, rounds])
def test_boards_with_python_3_6_can_read_it(module: Any) -> None:
    ast.parse(Path(module.__file__).read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello\n", "a request is a line of JSON, but got b'hello\\n'"),
        (b"[1]\n", "a request is a JSON object, but got a list"),
        (b'{"id": 1, "command": "reboot"}\n', "unknown command 'reboot'; known: exec, has, hello"),
        (b'{"id": 1, "command": "has"}\n', "the request lacks 'models'"),
    ],
)
def test_what_is_no_request_is_told_and_the_agent_goes_on(talk: Talk, line: bytes, reason: str) -> None:
    talk.say(line)
    answer = talk.hear()
    assert (answer["ok"], answer["kind"]) == (False, "protocol")
    assert answer["error"].startswith(reason)
    assert talk.ask({"command": "has", "models": []})["result"] == {"missing": []}


def test_bytes_that_a_refused_request_brought_are_read_away(talk: Talk) -> None:
    assert talk.ask({"command": "reboot"}, b"x" * 100_000)["kind"] == "protocol"
    assert talk.ask({"command": "has", "models": []})["ok"]


def test_it_ends_with_its_input(talk: Talk) -> None:
    assert talk.process.stdin is not None
    talk.process.stdin.close()
    assert talk.process.wait(10) == 0


def test_a_model_that_is_not_there_is_asked_for(talk: Talk) -> None:
    answer = talk.ask({"command": "load", "model": "0" * 64, "threads": 1})
    assert answer["kind"] == "missing"


def test_a_file_that_is_no_model_is_refused_in_one_line(talk: Talk) -> None:
    digest = put(talk, b"no model")
    answer = talk.ask({"command": "load", "model": digest, "threads": 1})
    assert answer["kind"] == "model"
    assert "\n" not in answer["error"]


def test_nothing_is_unpickled(talk: Talk, linear_model: Callable[..., bytes]) -> None:
    digest = put(talk, linear_model())
    answer = talk.ask({"command": "run", "model": digest, "threads": 1}, npz(np.array([{"a": 1}], dtype=object)))
    assert answer["kind"] == "input"
    assert "allow_pickle=False" in answer["error"]


def test_it_times_with_the_protocol_of_this_package(talk: Talk, linear_model: Callable[..., bytes]) -> None:
    digest = put(talk, linear_model())
    request = {"command": "time", "candidate": digest, "reference": digest, "policy": POLICY, "threads": 1}
    x = np.zeros((1, 4), np.float32)
    found = talk.ask(request, npz(x, x))["result"]
    assert len(found["candidate_ms"]) == len(found["reference_ms"]) == len(found["kept"]) >= 4
    assert 0.3 < found["ratio"] < 3


def test_a_model_is_loaded_and_timed_on_chosen_cores(talk: Talk, linear_model: Callable[..., bytes]) -> None:
    digest, core = put(talk, linear_model()), min(os.sched_getaffinity(0))
    about = {"candidate": digest, "reference": digest, "policy": POLICY, "threads": 1}
    x = np.zeros((1, 4), np.float32)
    assert talk.ask({"command": "time", "affinity": [core], **about}, npz(x, x))["ok"]
    assert os.sched_getaffinity(talk.process.pid) == {core}
    assert talk.ask({"command": "time", "affinity": None, **about}, npz(x, x))["ok"]
    assert os.sched_getaffinity(talk.process.pid) == os.sched_getaffinity(0), "the next one is free again"
    refused = talk.ask({"command": "time", "affinity": [8000], **about}, npz(x, x))
    assert (refused["kind"], refused["error"][:28]) == ("device", "cores 8000 cannot be used, t")


def test_a_tool_runs_on_chosen_cores(talk: Talk) -> None:
    core = min(os.sched_getaffinity(0))
    script = "import os; print(sorted(os.sched_getaffinity(0)))"
    request = {"command": "exec", "argv": [sys.executable, "-c", script], "models": {}, "timeout_seconds": 20}
    answer = talk.ask({**request, "affinity": [core]})
    assert talk.process.stdout is not None
    assert talk.process.stdout.read(answer["bytes"]) == b"[%d]\n" % core


def test_a_tool_gets_its_arguments_as_they_are(talk: Talk) -> None:
    digest = put(talk, b"any")
    script = "import sys; print(len(sys.argv), sys.argv[1]); print(open(sys.argv[2]).read())"
    argv = [sys.executable, "-c", script, "$(id); ls", "{model}"]
    request = {"command": "exec", "argv": argv, "models": {"model": digest}, "timeout_seconds": 20}
    answer = talk.ask(request)
    assert answer["result"]["exit"] == 0
    assert talk.process.stdout is not None
    assert talk.process.stdout.read(answer["bytes"]) == b"3 $(id); ls\nany\n"


def test_a_tool_that_takes_too_long_is_ended(talk: Talk) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    answer = talk.ask({"command": "exec", "argv": argv, "models": {}, "timeout_seconds": 0.2})
    assert answer["error"].endswith("took more than 0.2 s")


def test_a_tool_that_is_not_there_says_so(talk: Talk) -> None:
    answer = talk.ask({"command": "exec", "argv": ["trtexec"], "models": {}, "timeout_seconds": 1})
    assert answer["error"] == "trtexec cannot be run: No such file or directory"


def test_two_agents_never_work_at_once(tmp_path: Path, talk: Talk) -> None:
    other = Talk(tmp_path)
    argv = [sys.executable, "-c", "import time; time.sleep(2.5)"]
    long = {"id": 1, "command": "exec", "argv": argv, "models": {}, "timeout_seconds": 20, "bytes": 0}
    talk.say(json.dumps(long).encode() + b"\n")
    time.sleep(0.5)
    started = time.monotonic()
    first = other.ask({"command": "exec", "argv": ["true"], "models": {}, "timeout_seconds": 5})
    assert first["event"] == "waiting"
    assert first["holder"] == f"process {talk.process.pid}"
    while "event" in (answer := other.hear()):
        pass
    assert answer["ok"]
    assert time.monotonic() - started > 1.0
    other.close()


def test_the_lock_of_a_killed_agent_is_free(tmp_path: Path, talk: Talk) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    long = {"id": 1, "command": "exec", "argv": argv, "models": {}, "timeout_seconds": 90, "bytes": 0}
    talk.say(json.dumps(long).encode() + b"\n")
    time.sleep(0.5)
    talk.process.kill()
    other = Talk(tmp_path)
    assert other.ask({"command": "exec", "argv": ["true"], "models": {}, "timeout_seconds": 5})["ok"]
    other.close()


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError, match="cannot be opened"), locked(str(tmp_path / "lock"), lambda *_: None):
        pass
    assert (tmp_path / "target").read_text() == "precious"


class TestStore:
    def sent(self, store: Store, contents: dict[str, bytes], *, digest: str | None = None) -> str:
        model = SentModel.of(dict(contents))
        stream = io.BytesIO(b"".join(contents.values()))
        store.put(digest or model.digest, model.files, stream.read)
        return model.digest

    def test_files_lie_as_they_were_sent(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path), 1000)
        digest = self.sent(store, {"model.onnx": b"abc", "weights/a.data": b"de"})
        assert (Path(store.path(digest)) / "weights" / "a.data").read_bytes() == b"de"

    def test_models_used_longest_ago_make_room(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path), 250)
        first, second = (self.sent(store, {"model.onnx": letter * 100}) for letter in (b"a", b"b"))
        time.sleep(0.02)
        assert store.has(first)
        third = self.sent(store, {"model.onnx": b"c" * 100})
        assert [store.has(digest) for digest in (first, second, third)] == [True, False, True]

    def test_damaged_bytes_leave_nothing(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path), 1000)
        model = SentModel.of({"model.onnx": b"abc"})
        with pytest.raises(StoreError, match=r"model\.onnx arrived damaged"):
            store.put(model.digest, model.files, io.BytesIO(b"abd").read)
        assert list((tmp_path / "models").iterdir()) == []

    def test_half_a_file_leaves_nothing(self, tmp_path: Path) -> None:
        store = Store(str(tmp_path), 1000)
        model = SentModel.of({"model.onnx": b"abc"})
        with pytest.raises(StoreError, match="in the middle of a file"):
            store.put(model.digest, model.files, io.BytesIO(b"a").read)
        assert list((tmp_path / "models").iterdir()) == []

    @pytest.mark.parametrize("name", ["../escape", "/etc/x", "a/../../b", "", "a//b", "a\\b"])
    def test_names_that_leave_the_folder_are_refused(self, tmp_path: Path, name: str) -> None:
        files = [{"name": name, "size": 1, "sha256": "0" * 64}]
        with pytest.raises(StoreError, match="may not be called"):
            Store(str(tmp_path), 1000).put(files_digest(files), files, io.BytesIO(b"x").read)

    def test_digests_that_are_paths_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="64 hexadecimal digits"):
            Store(str(tmp_path), 1000).path("../../etc")
