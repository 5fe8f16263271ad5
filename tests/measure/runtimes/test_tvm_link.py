"""Tests start a real worker; the suite shares one where it can."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.core.errors import CandidateError, MissingExtraError
from autocompress.measure.runtimes.tvm_link import TvmWorker, WorkerDiedError

pytest.importorskip("tvm")


@pytest.fixture
def worker() -> Iterator[TvmWorker]:
    made = TvmWorker()
    yield made
    made.close()


@pytest.mark.slow
def test_a_killed_worker_is_a_reason_and_the_next_request_works(worker: TvmWorker) -> None:
    version = worker.ask("hello")["version"]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSEGV)
    with pytest.raises(WorkerDiedError, match=r"killed by signal 11 \(SIGSEGV\)"):
        worker.ask("hello")
    assert worker.ask("hello")["version"] == version
    assert worker.generation == 2


@pytest.mark.slow
def test_a_silent_worker_is_ended(worker: TvmWorker) -> None:
    worker.ask("hello")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerDiedError, match=r"no sign of life for 1 s"):
        worker.ask("hello", silence_seconds=1.0)
    assert worker.pid is None


@pytest.mark.slow
def test_a_worker_leaves_no_files_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = TvmWorker()
    worker.ask("hello")
    (scratch,) = tmp_path.iterdir()
    assert list(scratch.iterdir())  # the folder of compiled models
    worker.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_refusal_comes_back_with_its_stage(worker: TvmWorker) -> None:
    with pytest.raises(CandidateError, match="holds no model 7") as caught:
        worker.ask("run", {"handle": 7, "inputs": "", "outputs": ""})
    assert caught.value.stage == "run"


def test_without_tvm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'autocompress\[tvm\]'"):
        TvmWorker()
