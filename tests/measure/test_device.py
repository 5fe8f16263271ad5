"""Devices that are lost, busy, or not what they were."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import CandidateError, DeviceLostError, Interrupted, TargetError
from autocompress.measure.device import Device, DeviceWatch, SentModel, open_device
from autocompress.measure.runtimes.remote import RemoteOnnxRuntime
from autocompress.measure.transports.local import LocalConnection

SLEEP = [sys.executable, "-c", "import time; time.sleep(2)"]


def execute(device: Device, argv: list[str]) -> tuple[dict[str, Any], bytes]:
    return device.request("exec", {"argv": argv, "models": {}, "timeout_seconds": 30}, timeout_seconds=30)


@pytest.fixture
def connection(tmp_path: Path) -> LocalConnection:
    """Agents on this machine, without ssh."""
    return LocalConnection(folder=str(tmp_path / "device"))


@pytest.mark.parametrize("url", ["local", "telepathy", "tvm-rpc://tracker:9190"])
def test_only_devices_with_agents_are_opened(url: str) -> None:
    with pytest.raises(TargetError):
        open_device(url)


def test_a_model_goes_over_once(connection: LocalConnection, linear_model: Callable[..., bytes]) -> None:
    device = Device(connection)
    runtime = RemoteOnnxRuntime(device)
    for _ in range(3):
        runtime.build(linear_model())
    assert device.sent_bytes == len(linear_model())
    device.close()
    again = Device(connection)
    RemoteOnnxRuntime(again).build(linear_model())
    assert again.sent_bytes == 0
    again.close()


def test_a_model_that_was_evicted_goes_over_again(
    connection: LocalConnection, linear_model: Callable[..., bytes], tmp_path: Path
) -> None:
    device = Device(connection)
    artifact = RemoteOnnxRuntime(device).build(linear_model())
    (folder,) = (tmp_path / "device" / "models").iterdir()
    folder.rename(tmp_path / "elsewhere")
    with device.fresh() as other:
        RemoteOnnxRuntime(other).build(linear_model())
    assert artifact.run((np.ones((1, 4), np.float32),))[0].shape == (1, 3)
    device.close()


def test_a_device_that_is_lost_is_waited_for(ssh_server: Any) -> None:
    messages: list[str] = []
    pauses: list[float] = []
    device = open_device(ssh_server.url)
    device._first_wait = 0.2
    device.watch = DeviceWatch(on_message=messages.append, on_pause=pauses.append, attempts=None)
    ssh_server.kill()
    timer = threading.Timer(1.0, ssh_server.start)
    timer.start()
    result, _ = execute(device, ["true"])
    timer.join()
    device.close()
    assert result["exit"] == 0
    assert messages[0].startswith("Paused: ")
    assert messages[0].endswith("It goes on when the device is back; Ctrl-C stops it, resumable.")
    assert messages[-1].endswith("going on.")
    assert 0.9 < pauses[0] < 30


def test_a_device_that_is_lost_in_the_middle_is_asked_again(ssh_server: Any) -> None:
    device = open_device(ssh_server.url)
    device._first_wait = 0.2
    timer = threading.Timer(0.7, lambda: (ssh_server.kill(), ssh_server.start()))
    timer.start()
    result, _ = execute(device, SLEEP)
    timer.join()
    device.close()
    assert result["exit"] == 0


def test_a_device_that_stays_lost_is_given_up(ssh_server: Any) -> None:
    device = open_device(ssh_server.url)
    device._first_wait = 0.05
    device.watch = DeviceWatch(attempts=2)
    ssh_server.kill()
    with pytest.raises(DeviceLostError, match="it refuses connections"):
        execute(device, ["true"])
    device.close()


def test_waiting_can_be_stopped(ssh_server: Any) -> None:
    asked = threading.Event()
    device = open_device(ssh_server.url)
    device.watch = DeviceWatch(should_stop=asked.is_set, attempts=None)
    ssh_server.kill()
    timer = threading.Timer(0.5, asked.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        execute(device, ["true"])
    timer.join()
    device.close()
    assert time.monotonic() - started < 10


def test_another_device_at_the_same_address_is_not_taken_for_it(connection: LocalConnection) -> None:
    device = Device(connection, watch=DeviceWatch(attempts=1), first_wait=0.01)
    assert device._identity is not None
    device._identity = ("Another board #00000000", device._identity[1])
    device._drop()
    with pytest.raises(TargetError, match="is not what it was: Another board #00000000 with"):
        execute(device, ["true"])
    device.close()


def test_a_candidate_that_ends_the_agent_twice_has_failed(connection: LocalConnection) -> None:
    device = Device(connection, first_wait=0.01)
    suicide = [sys.executable, "-c", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"]
    with pytest.raises(CandidateError, match="exec: The agent on this machine was killed by signal 9"):
        execute(device, suicide)
    assert execute(device, ["true"])[0]["exit"] == 0, "the next candidate gets an agent again"
    device.close()


def test_a_second_search_waits_and_says_so(connection: LocalConnection) -> None:
    first, messages = Device(connection), list[str]()
    second = Device(connection, watch=DeviceWatch(on_message=messages.append))
    worker = threading.Thread(target=execute, args=(first, SLEEP))
    worker.start()
    time.sleep(0.5)
    started = time.monotonic()
    execute(second, ["true"])
    waited = time.monotonic() - started
    worker.join()
    assert waited > 1.0
    assert messages == [f"local is busy with another measurement ({_holder(first)}): waiting for it to end."]
    first.close()
    second.close()


def test_waiting_for_another_search_can_be_stopped(connection: LocalConnection) -> None:
    first, second = Device(connection), Device(connection, watch=DeviceWatch(should_stop=lambda: True))
    worker = threading.Thread(target=execute, args=(first, SLEEP))
    worker.start()
    time.sleep(0.5)
    with pytest.raises(Interrupted):
        execute(second, ["true"])
    worker.join()
    first.close()
    second.close()


def test_a_fresh_agent_leaves_the_other_one_alone(connection: LocalConnection) -> None:
    device = Device(connection)
    link = device._link
    with device.fresh() as other:
        execute(other, ["true"])
        assert other._link is not link
    assert device._link is link
    assert link is not None and link.alive
    device.close()


def test_the_digest_of_a_model_knows_its_files_names() -> None:
    one, other = SentModel.of({"model.onnx": b"a"}), SentModel.of({"model.data": b"a"})
    assert one.digest != other.digest
    assert replace(one, parts=()).size_bytes == 1


def _holder(device: Device) -> str:
    assert device._link is not None
    return f"process {device._link._process.pid}"
