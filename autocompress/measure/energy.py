"""Energy of an inference where the machine has a counter; what it draws when idle is subtracted.

Counters: RAPL through Linux's powercap (``/sys/class/powercap/intel-rapl:N/energy_uj``, Intel and AMD; a register that
wraps around at ``max_energy_range_uj``), and the input rails of a Jetson's INA3221 monitors as ``tegrastats`` prints
them, integrated over time.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autocompress.core.measurement import Measurement, Provenance
from autocompress.measure.latency import now, runtime_title

POWERCAP = Path("/sys/class/powercap")
#: A turn is this long, idle or running: RAPL is updated about every millisecond, tegrastats here every 0.1 s.
TURN_SECONDS = 1.0
REPEATS = 5
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")
#: Rails that everything on the board is fed from: on Nano, and on TX2, Xavier NX, Orin Nano and Orin NX.
_INPUT_RAILS = ("POM_5V_IN", "VDD_IN")


class EnergyCounter(Protocol):
    """Joules used since some moment."""

    name: str

    def read(self) -> float:
        """Joules now; only differences mean something."""


class RaplCounter:
    """The processor's packages, and their memory where it is counted apart.

    Args:
        folder: of the powercap framework.

    Raises:
        OSError: a counter cannot be read, as on systems that let only root do so.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _counts(zone)]
        if not self._zones:
            raise OSError(f"there is no RAPL package under {folder}")
        self._ranges = [float((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
        self._last = self._raw()
        self._wrapped = [0.0] * len(self._zones)
        self.name = "RAPL " + "+".join((zone / "name").read_text().strip() for zone in self._zones)

    def read(self) -> float:
        """Joules; right as long as it is read at least once in the minutes that a register takes to wrap around."""
        raw = self._raw()
        for index, (before, after) in enumerate(zip(self._last, raw, strict=True)):
            if after < before:
                self._wrapped[index] += self._ranges[index]
        self._last = raw
        return (sum(raw) + sum(self._wrapped)) * 1e-6

    def _raw(self) -> list[float]:
        return [float((zone / "energy_uj").read_text()) for zone in self._zones]


class TegrastatsCounter:
    """Integrates the input power that ``tegrastats`` prints, in a thread of its own.

    Args:
        command: the program; it prints a line every 100 ms.

    Raises:
        OSError: it cannot be run, or prints no input rail within two seconds.
    """

    name = "tegrastats input rail"

    def __init__(self, command: Sequence[str] = ("tegrastats", "--interval", "100")) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        if not self._told.wait(2.0):
            self.close()
            raise OSError("tegrastats prints no input rail")

    def read(self) -> float:
        """Joules until now; the power since the last line is taken as that of the last line."""
        with self._lock:
            if self._last is None:
                return self._joules
            seconds, watts = self._last
            return self._joules + (time.monotonic() - seconds) * watts

    def close(self) -> None:
        """End tegrastats."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _follow(self) -> None:
        for line in self._process.stdout or ():
            milliwatts = input_milliwatts(line)
            if milliwatts is None:
                continue
            moment = time.monotonic()
            with self._lock:
                if self._last is not None:
                    self._joules += (moment - self._last[0]) * self._last[1]
                self._last = (moment, milliwatts * 1e-3)
            self._told.set()


def parse_rails(line: str) -> dict[str, float]:
    """Momentary milliwatts by rail of a line of ``tegrastats``: ``POM_5V_IN 900/943``, ``VDD_IN 5336mW/4970mW``."""
    return {name: float(instant) for name, instant, _ in _RAIL.findall(line)}


def input_milliwatts(line: str) -> float | None:
    """What the whole board draws; None where the line has no input rail (AGX boards monitor its parts only)."""
    rails = parse_rails(line)
    return next((rails[name] for name in _INPUT_RAILS if name in rails), None)


@contextlib.contextmanager
def open_counter(folder: Path = POWERCAP) -> Iterator[EnergyCounter | None]:
    """This machine's counter for as long as it is needed; None where there is none that may be read."""
    rapl = tegrastats = None
    with contextlib.suppress(OSError, ValueError):
        rapl = RaplCounter(folder)
    if rapl is None and shutil.which("tegrastats") is not None:
        with contextlib.suppress(OSError):
            tegrastats = TegrastatsCounter()
    try:
        yield rapl or tegrastats
    finally:
        if tegrastats is not None:
            tegrastats.close()


def has_counter(folder: Path = POWERCAP) -> bool:
    """Whether energy can be measured on this machine."""
    with open_counter(folder) as counter:
        return counter is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """Energy of one call.

    Args:
        samples_mj: millijoules a call, one a turn, idle power subtracted.
        idle_watts: median of what the idle turns drew.
        busy_watts: likewise of the running turns.
        calls: of all turns.
        counter: where it comes from.
    """

    samples_mj: tuple[float, ...]
    idle_watts: float
    busy_watts: float
    calls: int
    counter: str


def read_energy(
    call: Callable[[], object],
    counter: EnergyCounter,
    *,
    seconds: float = TURN_SECONDS,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyReading:
    """Run ``call`` again and again between idle turns of the same length.

    The idle power that counts for a turn is the mean of the turns before and after it, so that a drift of the
    neighbours' load cancels.

    Args:
        call: one inference.
        counter: of this machine.
        seconds: of a turn.
        repeats: running turns.
        clock: seconds.
        sleep: waits.
    """
    idle, busy = [], []
    total = 0
    for turn in range(2 * repeats + 1):
        before, started = counter.read(), clock()
        calls = 0
        if turn % 2:
            while clock() - started < seconds:
                call()
                calls += 1
        else:
            sleep(seconds)
        joules, elapsed = counter.read() - before, clock() - started
        total += calls
        if turn % 2:
            busy.append((joules, elapsed, calls))
        else:
            idle.append(joules / elapsed)
    samples = [
        (joules - elapsed * (idle[index] + idle[index + 1]) / 2) / calls * 1e3
        for index, (joules, elapsed, calls) in enumerate(busy)
    ]
    return EnergyReading(
        samples_mj=tuple(samples),
        idle_watts=statistics.median(idle),
        busy_watts=statistics.median(joules / elapsed for joules, elapsed, _ in busy),
        calls=total,
        counter=counter.name,
    )


def energy_measurement(reading: EnergyReading, *, target: str, about: Mapping[str, Any]) -> Measurement:
    """A reading as a measurement: the median of the turns, with its order-statistic interval.

    Args:
        reading: of one artifact.
        target: name that the measurement carries.
        about: runtime and device, as ``describe()`` gives them.
    """
    from autocompress.measure.timing import median_interval

    return Measurement(
        metric="energy_mj",
        value=float(statistics.median(reading.samples_mj)),
        unit="mJ",
        provenance=Provenance.MEASURED,
        interval=median_interval(reading.samples_mj),
        samples=reading.samples_mj,
        target=target,
        runtime=runtime_title(about),
        fingerprint=str(about.get("fingerprint", "")),
        when=now(),
        details={
            "counter": reading.counter,
            "idle_watts": reading.idle_watts,
            "busy_watts": reading.busy_watts,
            "idle": "subtracted",
            "calls": reading.calls,
            "threads": about.get("threads"),
        },
    )


def _counts(zone: Path) -> bool:
    """Whether a zone is a package, or memory that its package does not count; others are parts of their package."""
    try:
        name = (zone / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"
