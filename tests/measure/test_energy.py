"""Energy counters, and what is read from them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from autocompress.core.measurement import Provenance
from autocompress.measure.energy import (
    RaplCounter,
    TegrastatsCounter,
    energy_measurement,
    has_counter,
    input_milliwatts,
    open_counter,
    parse_rails,
    read_energy,
)

NANO = (
    "RAM 1024/3956MB (lfb 337x4MB) SWAP 0/1978MB CPU [2%@102,0%@102,0%@102,0%@102] EMC_FREQ 0% GR3D_FREQ 0% PLL@41C "
    "CPU@43.5C PMIC@100C GPU@41C AO@50.5C thermal@42.5C POM_5V_IN 900/943 POM_5V_GPU 0/0 POM_5V_CPU 123/123"
)
ORIN = (
    "RAM 2450/7620MB (lfb 4x4MB) SWAP 0/3810MB CPU [0%@729,0%@729,0%@729,0%@729,off,off] GR3D_FREQ 0% cpu@48.5C "
    "soc2@46.9C gpu@48.3C tj@48.9C VDD_IN 5336mW/4970mW VDD_CPU_GPU_CV 650mW/600mW VDD_SOC 1379mW/1300mW"
)
RANGE = 262_143_328_850


def zone(folder: Path, number: str, name: str, microjoules: int) -> Path:
    """A zone as the kernel shows it."""
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return path


def test_packages_and_memory_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 5_000_000)
    zone(tmp_path, "0:0", "core", 3_000_000)
    zone(tmp_path, "0:1", "dram", 1_000_000)
    zone(tmp_path, "1", "psys", 9_000_000)
    counter = RaplCounter(tmp_path)
    assert counter.read() == pytest.approx(6.0)
    assert counter.name == "RAPL package-0+dram"


def test_a_register_that_wraps_around_goes_on_counting(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", RANGE - 2_000_000)
    counter = RaplCounter(tmp_path)
    before = counter.read()
    (package / "energy_uj").write_text("3000000\n")
    assert counter.read() - before == pytest.approx(5.0)
    (package / "energy_uj").write_text("4000000\n")
    assert counter.read() - before == pytest.approx(6.0)


def test_without_packages_there_is_no_rapl(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no RAPL package"):
        RaplCounter(tmp_path)
    assert not has_counter(tmp_path)


def test_a_counter_that_may_not_be_read_is_none(tmp_path: Path) -> None:
    (zone(tmp_path, "0", "package-0", 0) / "energy_uj").unlink()
    assert not has_counter(tmp_path)


def test_an_error_while_a_counter_is_open_is_not_hidden(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 0)
    with pytest.raises(OSError, match="mine"), open_counter(tmp_path):
        raise OSError("mine")


@pytest.mark.parametrize(("line", "milliwatts"), [(NANO, 900.0), (ORIN, 5336.0)])
def test_the_input_rail_of_a_jetson_is_read(line: str, milliwatts: float) -> None:
    assert input_milliwatts(line) == milliwatts


def test_temperatures_and_memory_are_no_rails() -> None:
    assert parse_rails(NANO) == {"POM_5V_IN": 900.0, "POM_5V_GPU": 0.0, "POM_5V_CPU": 123.0}
    assert parse_rails(ORIN) == {"VDD_IN": 5336.0, "VDD_CPU_GPU_CV": 650.0, "VDD_SOC": 1379.0}


def test_a_line_without_an_input_rail_gives_nothing() -> None:
    assert input_milliwatts("RAM 1/2MB CPU 311/311 SOC 933/933") is None


def test_tegrastats_is_integrated_over_time(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile true; do echo '{ORIN}'; sleep 0.02; done\n")
    program.chmod(0o755)
    counter = TegrastatsCounter([str(program)])
    try:
        before, started = counter.read(), time.monotonic()
        time.sleep(0.3)
        joules, seconds = counter.read() - before, time.monotonic() - started
    finally:
        counter.close()
    assert joules == pytest.approx(5.336 * seconds, rel=0.1)


def test_a_tegrastats_without_an_input_rail_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text("#!/bin/sh\necho nothing\n")
    program.chmod(0o755)
    with pytest.raises(OSError, match="no input rail"):
        TegrastatsCounter([str(program)])


class Board:
    """Draws idle watts, and more while it runs; time passes only as it is told."""

    name = "simulated"

    def __init__(self, *, idle: float, call_seconds: float, call_joules: float, drift: float = 0.0) -> None:
        self.seconds = self.joules = 0.0
        self._idle, self._call_seconds, self._call_joules, self._drift = idle, call_seconds, call_joules, drift

    def read(self) -> float:
        return self.joules

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.joules += seconds * (self._idle + self._drift * (self.seconds + seconds / 2))
        self.seconds += seconds

    def call(self) -> None:
        self.sleep(self._call_seconds)
        self.joules += self._call_joules


@pytest.mark.parametrize("drift", [0.0, 2.0])
def test_idle_power_is_subtracted_though_it_drifts(drift: float) -> None:
    board = Board(idle=20.0, call_seconds=0.01, call_joules=0.005, drift=drift)
    found = read_energy(board.call, board, repeats=3, clock=board.clock, sleep=board.sleep)
    assert found.samples_mj == pytest.approx((5.0,) * 3, rel=1e-6)
    assert found.calls == pytest.approx(300, abs=6)


def test_a_reading_is_measured_and_says_what_was_subtracted() -> None:
    board = Board(idle=20.0, call_seconds=0.01, call_joules=0.005)
    reading = read_energy(board.call, board, repeats=5, clock=board.clock, sleep=board.sleep)
    found = energy_measurement(reading, target="local", about={"name": "onnxruntime", "threads": 1})
    assert (found.metric, found.unit, found.provenance) == ("energy_mj", "mJ", Provenance.MEASURED)
    assert found.value == pytest.approx(5.0)
    assert found.details["idle_watts"] == pytest.approx(20.0) and found.details["idle"] == "subtracted"
    assert found.details["busy_watts"] == pytest.approx(20.5)
