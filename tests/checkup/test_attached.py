"""What an attached device is fit for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from autocompress import api
from autocompress.checkup.attached import _clocks, _heat, checks_of
from autocompress.checkup.machine import NOISE_RUNS, processor, steal_share
from autocompress.core.errors import DeviceLostError
from autocompress.hardware.host import HostFacts, host_fingerprint
from autocompress.measure.cache import CACHE_VARIABLE

PLAIN = HostFacts(
    cpu="Cortex-A72",
    board="Raspberry Pi 4 Model B",
    cores=4,
    isa=("neon",),
    clock_ghz=1.5,
    memory_bytes=2**32,
    system="Linux",
    machine="aarch64",
)


def test_the_device_is_asked_what_this_machine_is_asked(
    ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    found = {check["check"]: check for check in api.doctor(ssh_server.url)}
    assert found["device"]["found"] == f"{ssh_server.url}: {host_fingerprint()}"
    assert found["Python"]["found"] == sys.version.split()[0]
    for name in ("fp16 (throughout)", "int8 (uint8 activations)", "int8 (int8 activations)"):
        figures = found[name]["figures"]
        assert figures["interval"][0] <= figures["ratio"] <= figures["interval"][1]
    assert found["fast precisions"]["found"].startswith("fp32")
    assert found["timer"]["figures"]["runs"] == NOISE_RUNS
    assert found["trtexec"]["ok"] and "libnvinfer-bin" in found["trtexec"]["found"]
    assert found["space for models"]["figures"]["free_bytes"] > 0
    assert not [check for check in found.values() if check["advice"] == "this check itself failed"]
    assert all(check["ok"] or check["advice"] for check in found.values())


def test_what_is_missing_there_is_told_with_the_command_that_mends_it(
    ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same Python without its packages, as on a board that was only just set up.
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv("AUTOCOMPRESS_REMOTE_PYTHON", str(bare))
    found = {check.check: check for check in checks_of(ssh_server.url)}
    assert not found["onnxruntime"].ok
    assert "pip install numpy onnxruntime" in found["onnxruntime"].advice
    assert "timer" not in found and "fast precisions" not in found


def test_a_device_that_does_not_answer_is_an_error(ssh_server: Any) -> None:
    ssh_server.kill()
    with pytest.raises(DeviceLostError):
        list(checks_of(ssh_server.url))


def test_a_processor_without_integer_products_is_told() -> None:
    name, instructions = processor(PLAIN)
    assert name.found == "Raspberry Pi 4 Model B, Cortex-A72, 4 usable cores"
    assert not instructions.ok and "int8 may not be faster" in instructions.advice


def test_a_clock_that_follows_the_load_is_told() -> None:
    (found,) = _clocks({"governor": "ondemand", "clocks_mhz": [600, 1500]})
    assert not found.ok and found.found == "governor ondemand, 600 to 1500 MHz now"
    assert [check.ok for check in _clocks({"governor": "performance"})] == [True]
    assert not list(_clocks({}))


def test_heat_and_throttling_are_told() -> None:
    heat, throttling = _heat({"temperatures_c": {"cpu": 81.0, "gpu": 60.0}, "throttling": ["under-voltage now"]})
    assert not heat.ok and heat.found == "81 degrees Celsius (cpu)"
    assert not throttling.ok and throttling.found == "under-voltage now" and "power supply" in throttling.advice
    assert [check.ok for check in _heat({"throttling": []})] == [True]


def test_steal_time_is_a_share_of_all_cores() -> None:
    told = {"machine": {"steal_ticks": 30}, "seconds": 1.0}
    silent = {"machine": {"steal_ticks": None}, "seconds": 1.0}
    assert steal_share([told, told, silent], 2) == pytest.approx(0.15)
    assert steal_share([silent], 2) is None
