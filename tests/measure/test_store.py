"""Measurements in SQLite, shared by processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autocompress.core.errors import ModelError
from autocompress.measure import store as module
from autocompress.measure.store import FILE_NAME, MeasurementStore, key_digest, model_digest, sample_digest

KEY = {"candidate": "a" * 64, "runtime": {"version": "1.31.0", "kernel": "6.1"}}
WRITER = """
import sys
from pathlib import Path
from autocompress.measure.store import MeasurementStore

store, name = MeasurementStore(Path(sys.argv[1]), on_message=lambda text: sys.exit(text)), sys.argv[2]
for number in range(50):
    store.write({"writer": name, "number": number}, {"value": number, "samples": [0.5] * 500})
    assert store.read({"writer": name, "number": number})["value"] == number
    store.write({"shared": number}, {"value": number})
    store.update({"list": 0}, lambda kept: {"all": [*(kept or {"all": []})["all"], f"{name} {number}"]})
"""


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, messages: list[str]) -> MeasurementStore:
    return MeasurementStore(tmp_path / "cache", on_message=messages.append)


def test_what_was_written_is_read_back_by_another_store(store: MeasurementStore) -> None:
    entry = {"value": 0.1 + 0.2, "samples": [1.5, None], "name": "µs"}
    store.write(KEY, entry)
    assert MeasurementStore(store.path.parent).read(KEY) == entry


def test_nothing_is_made_by_reading(store: MeasurementStore) -> None:
    assert store.read(KEY) is None and store.count() == 0
    assert not store.path.exists()


def test_a_later_entry_takes_the_place_of_an_earlier_one(store: MeasurementStore) -> None:
    for value in (1, 2):
        store.write(KEY, {"value": value})
    assert (store.read(KEY), store.count()) == ({"value": 2}, 1)


def test_anything_in_the_key_that_differs_misses(store: MeasurementStore) -> None:
    store.write(KEY, {"value": 1})
    assert store.read({**KEY, "runtime": {"version": "1.31.0", "kernel": "6.2"}}) is None


def test_the_order_of_a_keys_parts_does_not_matter() -> None:
    assert key_digest({"a": 1, "b": 2}) == key_digest({"b": 2, "a": 1})


def test_an_update_that_fails_leaves_what_was_kept(store: MeasurementStore) -> None:
    store.write(KEY, {"value": 1})
    with pytest.raises(ZeroDivisionError):
        store.update(KEY, lambda kept: {"value": 1 // 0})
    store.write({"other": 1}, {})
    assert store.read(KEY) == {"value": 1}


def test_an_update_that_cannot_be_kept_is_still_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert MeasurementStore(tmp_path / "file").update(KEY, lambda kept: {"was": kept}) == {"was": None}


def test_the_oldest_entries_go(store: MeasurementStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 3)
    for number in range(5):
        store.write({"number": number}, {})
    assert [store.read({"number": n}) is not None for n in range(5)] == [False, False, True, True, True]


def test_four_processes_write_at_once(store: MeasurementStore) -> None:
    command = [sys.executable, "-c", WRITER, str(store.path.parent)]
    processes = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for n in range(4)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert store.count() == 4 * 50 + 50 + 1
    every = store.read({"list": 0})
    assert every is not None and sorted(every["all"]) == sorted(f"{n} {k}" for n in range(4) for k in range(50))


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look like one" * 200, b"SQLite format 3\0" * 9]
)
def test_a_damaged_database_is_set_aside_with_a_message(
    store: MeasurementStore, messages: list[str], content: bytes
) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(content)
    assert store.read(KEY) is None
    store.write(KEY, {"value": 1})
    assert store.read(KEY) == {"value": 1}
    (message,) = messages
    assert message.startswith(f"The cache of measurements was set aside as {FILE_NAME}.") and "it is damaged" in message
    (aside,) = store.path.parent.glob("*.old")
    assert aside.read_bytes() == content


def test_damage_inside_is_set_aside_too(store: MeasurementStore, messages: list[str]) -> None:
    for number in range(200):
        store.write({"number": number}, {"samples": [0.25] * 200})
    content = bytearray(store.path.read_bytes())
    content[4096:-4096] = b"\xff" * (len(content) - 8192)
    store.path.write_bytes(bytes(content))
    assert all(store.read({"number": n}) is None for n in range(3))
    store.write(KEY, {"value": 1})
    assert store.read(KEY) == {"value": 1}
    assert len(messages) == 1


def test_a_database_of_another_layout_is_set_aside(store: MeasurementStore, messages: list[str]) -> None:
    store.write(KEY, {"value": 1})
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert store.read(KEY) is None
    assert len(messages) == 1 and "it has layout 99, not 1" in messages[0]


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, messages: list[str]) -> None:
    (tmp_path / "file").write_text("")
    store = MeasurementStore(tmp_path / "file" / "cache", on_message=messages.append)
    for _ in range(2):
        store.write(KEY, {})
        assert store.read(KEY) is None
    assert len(messages) == 1 and messages[0].startswith("Measurements are not kept: ")


def test_a_database_that_stays_locked_is_as_good_as_none(
    store: MeasurementStore, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(KEY, {"value": 1})
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.write(KEY, {"value": 2})
    assert store.read(KEY) == {"value": 1}
    other.close()
    assert len(messages) == 1 and "locked" in messages[0]


def test_a_models_digest_is_that_of_its_bytes(linear_model: Callable[..., bytes], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(linear_model())
    assert model_digest(path) == model_digest(linear_model())
    assert model_digest(path) != model_digest(linear_model(weight=np.ones((4, 3), np.float32)))


def test_a_models_digest_counts_its_data_files(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", "length": "48"}.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [tensor],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    digests = []
    for byte in (b"\0", b"\1"):
        (tmp_path / "w.bin").write_bytes(byte * 48)
        digests.append(model_digest(path))
    assert digests[0] != digests[1]
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"keeps weights in 'w\.bin'"):
        model_digest(path)


def test_a_samples_digest_counts_its_first_row_and_type() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert sample_digest((x,)) == sample_digest((x[:1],))
    assert len({sample_digest((x,)), sample_digest((x + 1,)), sample_digest((x.astype(np.float64),)), "random"}) == 4
    assert sample_digest(None) == "random"
