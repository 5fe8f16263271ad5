"""Fresh processes on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autocompress.core.errors import TargetError
from autocompress.measure.transports.local import LocalTransport, open_transport

MODULES = {
    "echo": "import sys; print(sys.stdin.read().upper(), end='')",
    "process": "import os; print(os.getpid())",
    "package": "import autocompress.core.errors; print(autocompress.__file__)",
    "sleeper": "import time; time.sleep(60)",
    "failure": "import sys; print('first', file=sys.stderr); print('no such kernel', file=sys.stderr); sys.exit(3)",
    "quiet": "import sys; sys.exit(4)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def transport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalTransport:
    """With a few modules of ours to run."""
    for name, text in MODULES.items():
        (tmp_path / f"local_test_{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return LocalTransport()


def run(transport: LocalTransport, name: str, request: str = "", seconds: float = 60.0) -> str:
    return transport.run_module(f"local_test_{name}", request, timeout_seconds=seconds)


def test_a_request_goes_in_and_the_answer_comes_out(transport: LocalTransport) -> None:
    assert run(transport, "echo", "grüße") == "GRÜSSE"


def test_each_run_is_a_process_of_its_own(transport: LocalTransport) -> None:
    found = {int(run(transport, "process")) for _ in range(2)}
    assert len(found | {os.getpid()}) == 3


def test_the_child_finds_this_very_package_wherever_it_is_started(
    transport: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import autocompress

    monkeypatch.chdir(tmp_path)
    assert Path(run(transport, "package").strip()).samefile(str(autocompress.__file__))


def test_a_process_that_takes_too_long_is_stopped(transport: LocalTransport) -> None:
    with pytest.raises(TargetError, match="local_test_sleeper on local took more than 1 s"):
        run(transport, "sleeper", seconds=0.6)


def test_a_failure_is_told_by_the_last_line_of_standard_error(transport: LocalTransport) -> None:
    with pytest.raises(TargetError, match="local_test_failure on local ended 3: no such kernel"):
        run(transport, "failure")


def test_a_failure_without_a_word_says_so(transport: LocalTransport) -> None:
    with pytest.raises(TargetError, match="ended 4: nothing on standard error"):
        run(transport, "quiet")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_process_that_was_killed_names_the_signal(transport: LocalTransport) -> None:
    with pytest.raises(TargetError, match="was killed by signal 9"):
        run(transport, "killed")


@pytest.mark.parametrize("url", [None, "local"])
def test_local_is_the_default(url: str | None) -> None:
    assert open_transport(url).url == "local"


def test_a_tvm_server_runs_nothing_of_ours() -> None:
    with pytest.raises(TargetError, match=r"serves models that TVM compiles and nothing else"):
        open_transport("tvm-rpc://tracker:9190")


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"Unknown device 'telepathy': known are `local`, ssh://"):
        open_transport("telepathy")
