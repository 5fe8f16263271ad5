"""``autocompress agent``: real servers on loopback."""

from __future__ import annotations

import signal
import socket
from typing import Any

import pytest

from autocompress.cli.app import EXIT_INTERRUPTED, EXIT_USER, run
from autocompress.measure.tvm_device import TvmDevice


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "Say what to serve: --tvm"),
        (["--tvm", "--tracker", "localhost:9190"], "--tracker and --key go together"),
        (["--tvm", "--tracker", "nowhere", "--key", "pi"], "'nowhere' is no address: write host:port"),
    ],
)
def test_what_is_missing_is_said(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", *argv]) == EXIT_USER
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_it_while_it_serves(tvm_servers: Any) -> None:
    (port,) = tvm_servers.start()
    device = TvmDevice(tvm_servers.url(port))
    tvm_servers.agents[port].send_signal(signal.SIGINT)
    assert tvm_servers.agents[port].wait(20) == EXIT_INTERRUPTED
    device.close()


@pytest.mark.slow
def test_an_address_that_is_taken_is_one_line(tvm_servers: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            RuntimeError, match=rf"error: 127.0.0.1:{port} cannot be listened at: Address already in use"
        ):
            tvm_servers.start(port=port)


@pytest.mark.slow
def test_a_tracker_that_is_not_there_is_one_line(tvm_servers: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        tvm_servers.tracker_port = free.getsockname()[1]
        with pytest.raises(RuntimeError, match=r"error: There is no tracker at 127.0.0.1:\d+: Connection refused"):
            tvm_servers.start(key="pi")
