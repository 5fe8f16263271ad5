"""What the machine does besides: clock, temperature, throttling, steal time and context switches.

Like :mod:`autocompress.measure.rounds` it runs on boards too: Python 3.6 or newer and the standard library.
"""

import os
from typing import Any, Dict, Mapping, Optional

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def machine_state() -> Dict[str, Any]:
    """Clock, temperature, throttling, steal time and context switches, as far as the system tells them."""
    state = {"clock_mhz": _clock_mhz(), "temperature_c": _temperature_c()}  # type: Dict[str, Any]
    counter = "/sys/devices/system/cpu/cpu%d/thermal_throttle/core_throttle_count"
    state["throttle_count"] = sum(_number(counter % cpu) or 0 for cpu in range(os.cpu_count() or 1))
    fields = _read("/proc/stat").partition("\n")[0].split()
    state["steal_ticks"] = int(fields[8]) if len(fields) > 8 and fields[0] == "cpu" else None
    if resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        state["context_switches"] = [usage.ru_nvcsw, usage.ru_nivcsw]
    state["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return state


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Dict[str, Any]:
    """What changed between two states; clock and temperature at both ends."""
    old, new = before.get("context_switches"), after.get("context_switches")
    stolen = before["steal_ticks"], after["steal_ticks"]
    return {
        "clock_mhz": [before["clock_mhz"], after["clock_mhz"]],
        "temperature_c": [before["temperature_c"], after["temperature_c"]],
        "throttled": after["throttle_count"] - before["throttle_count"],
        "steal_ticks": None if None in stolen else stolen[1] - stolen[0],
        "context_switches": None if old is None or new is None else [b - a for a, b in zip(old, new)],
        "load": after["load"],
    }


def _clock_mhz() -> Optional[float]:
    exact = _number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if exact is not None:
        return exact / 1e3
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def _temperature_c() -> Optional[float]:
    millis = _number("/sys/class/thermal/thermal_zone0/temp")
    return None if millis is None else millis / 1e3


def _number(path: str) -> Optional[float]:
    try:
        return float(_read(path))
    except ValueError:
        return None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
