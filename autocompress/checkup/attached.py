"""What an attached device is fit for: the same questions as for this machine, answered by its agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from autocompress.checkup.check import Check, guarded
from autocompress.checkup.machine import load, noise, precisions, processor
from autocompress.core.errors import TargetError
from autocompress.hardware.profiles import tools
from autocompress.measure.device import Device, open_device
from autocompress.measure.runtimes.remote import RemoteOnnxRuntime

#: Free bytes under which models that are sent over may not fit.
LITTLE_SPACE = 1e9
#: Degrees Celsius past which boards of this kind begin to slow down.
HOT = 75.0
#: Governors under which the clock stays where it is.
_STEADY = ("performance", "userspace")
_SECONDS = 60.0


def checks_of(url: str) -> Iterator[Check]:
    """Every check of a device.

    Raises:
        TargetError: it cannot be reached, or is this machine.
    """
    with closing(open_device(url)) as device:
        told, _ = device.request("hello", timeout_seconds=_SECONDS)
        sensors, _ = device.request("sensors", timeout_seconds=_SECONDS)
        yield Check(check="device", found=f"{url}: {device.fingerprint}", figures=device.system)
        yield from processor(device.facts)
        yield Check(check="Python", found=str(device.versions["python"]))
        yield from load(sensors.get("load"), device.facts.cores)
        yield from _clocks(sensors)
        yield from _heat(sensors)
        able = True
        for check in _runtime(device):
            able &= check.ok
            yield check
        if able:
            for name, group in (("precisions", precisions), ("timer", partial(noise, cores=told["cpus"]))):
                yield from guarded(_named(name, partial(group, RemoteOnnxRuntime(device))))
        yield from _tools(device)
        yield Check(check="energy", found="counters of attached devices are not read: energy is estimated")
        yield from _space(told)


def _named(name: str, group: Any) -> Any:
    group.__name__ = name
    return group


def _runtime(device: Device) -> Iterator[Check]:
    """What times models there: numpy and ONNX Runtime."""
    try:
        device.need_onnxruntime()
        advice = ""
    except TargetError as error:
        advice = str(error)
    for name in ("numpy", "onnxruntime"):
        found = device.versions.get(name)
        yield Check(check=name, ok=found is not None, found=found or "missing", advice="" if found else advice)


def _tools(device: Device) -> Iterator[Check]:
    """Vendors' tools that profiles name: a runtime whose tool is there can be timed on this device."""
    programs = {entry.argv[0]: entry for entry in tools().values()}
    for program, entry in programs.items():
        found = device.find_program(program, entry.places)
        # Nobody needs every tool, but where one comes from is worth knowing.
        yield Check(
            check=program,
            found=f"not there ({entry.install}); only runtimes that it times need it" if found is None else found[0],
        )


def _clocks(sensors: Mapping[str, Any]) -> Iterator[Check]:
    governor = sensors.get("governor")
    if governor is None:
        return
    clocks = sensors.get("clocks_mhz", [])
    steady = governor in _STEADY
    yield Check(
        check="clock",
        ok=steady,
        found=f"governor {governor}" + (f", {min(clocks)} to {max(clocks)} MHz now" if clocks else ""),
        advice=""
        if steady
        else "the clock follows the load: `sudo cpupower frequency-set -g performance` there (Jetson: `sudo "
        "jetson_clocks`) makes timings agree better",
        figures={"clocks_mhz": clocks},
    )


def _heat(sensors: Mapping[str, Any]) -> Iterator[Check]:
    zones = {**sensors.get("temperatures_c", {}), **sensors.get("tegra_temperatures_c", {})}
    if zones:
        hottest = max(zones, key=zones.__getitem__)
        hot = zones[hottest] >= HOT
        yield Check(
            check="temperature",
            ok=not hot,
            found=f"{zones[hottest]:.0f} degrees Celsius ({hottest})",
            advice="near the limit where clocks go down: cool it, or timings drift" if hot else "",
            figures={"zones": zones},
        )
    throttling = sensors.get("throttling")
    if throttling is not None:
        yield Check(
            check="throttling",
            ok=not throttling,
            found=", ".join(throttling) or "none since it started",
            advice="a stronger power supply ends under-voltage, a fan the rest; restart to clear it"
            if throttling
            else "",
        )


def _space(told: Mapping[str, Any]) -> Iterator[Check]:
    free = told.get("free_bytes")
    if free is not None:
        yield Check(
            check="space for models",
            ok=free >= LITTLE_SPACE,
            found=f"{free / 1e9:.1f} GB free in {told['folder']}",
            advice="" if free >= LITTLE_SPACE else "little is left: large models may not fit",
            figures={"free_bytes": free},
        )
