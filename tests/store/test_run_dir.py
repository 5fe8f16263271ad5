"""The folder of one run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.errors import RunFolderError
from autocompress.store.run_dir import FIXED_KEYS, RunFolder, atomic_write

REQUEST: dict[str, Any] = {
    "model": "demo",
    "data": "demo",
    "target": "local",
    "device": None,
    "runtime": None,
    "threads": None,
    "affinity": None,
    "space": "default",
    "objectives": ("accuracy", "latency_ms"),
    "seed": 0,
    "trials": 40,
}


def test_a_new_folder_holds_the_request(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path / "runs" / "a", REQUEST) as run:
        assert not run.resumed
        assert RunFolder.read(run.path).request == {**REQUEST, "objectives": ["accuracy", "latency_ms"]}


def test_the_same_request_resumes_with_another_budget(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path, REQUEST).close()
    with RunFolder.create_or_open(tmp_path, {**REQUEST, "trials": 80}) as run:
        assert run.resumed
        assert RunFolder.read(tmp_path).request["trials"] == 80


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_another_run_in_the_folder_is_refused_with_both_values(tmp_path: Path, key: str) -> None:
    RunFolder.create_or_open(tmp_path, REQUEST).close()
    with pytest.raises(RunFolderError, match=rf"{key} .*'other' was asked"):
        RunFolder.create_or_open(tmp_path, {**REQUEST, key: "other"})
    RunFolder.create_or_open(tmp_path, REQUEST).close()


def test_a_run_of_an_earlier_release_had_nothing_of_what_it_does_not_name(tmp_path: Path) -> None:
    earlier = {name: value for name, value in REQUEST.items() if name != "affinity"}
    RunFolder.create_or_open(tmp_path, earlier).close()
    with pytest.raises(RunFolderError, match=r"affinity None, but \[0\] was asked"):
        RunFolder.create_or_open(tmp_path, {**REQUEST, "affinity": (0,)})
    RunFolder.create_or_open(tmp_path, REQUEST).close()


def test_two_searches_never_share_a_folder(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, REQUEST), pytest.raises(RunFolderError, match="Another search runs"):
        RunFolder.create_or_open(tmp_path, REQUEST)


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from autocompress.store.run_dir import RunFolder;"
        f"run = RunFolder.create_or_open({str(tmp_path)!r}, {REQUEST!r}); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(p for p in sys.path if p)}, check=False)
    with RunFolder.create_or_open(tmp_path, REQUEST) as run:
        assert run.resumed


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"not empty .*thesis\.tex"):
        RunFolder.create_or_open(tmp_path, REQUEST)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="cannot be made"):
        RunFolder.create_or_open(tmp_path / place, REQUEST)


@pytest.mark.parametrize("content", ["a: [1", "just text", ""])
def test_a_broken_request_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(RunFolderError, match=r"run\.yaml"):
        RunFolder.create_or_open(tmp_path, REQUEST)


def test_reading_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        RunFolder.read(tmp_path / "none")


def test_a_folder_can_be_read_while_a_search_runs(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, REQUEST):
        assert RunFolder.read(tmp_path).request["model"] == "demo"


def test_json_reads_back_and_a_missing_file_is_none(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, REQUEST) as run:
        assert run.read_json(run.sensitivities) is None
        run.write_json(run.sensitivities, {"a": {"int8": 0.5}})
        assert run.read_json("sensitivities.json") == {"a": {"int8": 0.5}}
        run.sensitivities.write_text("{")
        with pytest.raises(RunFolderError, match="cannot be read"):
            run.read_json(run.sensitivities)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic_write(target, b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunFolderError, match="cannot be written"):
        atomic_write(tmp_path / "folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]
    assert target.read_bytes() == b"old"


def test_front_folders_are_made_when_asked_for(tmp_path: Path) -> None:
    with RunFolder.create_or_open(tmp_path, REQUEST) as run:
        assert run.front_folder(7) == tmp_path / "front" / "7"
        assert run.front_folder(7).is_dir()
