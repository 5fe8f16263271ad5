"""What a board says about itself: raw facts for its fingerprint, versions, and its sensors at this moment.

This file also runs on the board: Python 3.6 or newer, the standard library and nothing else.
"""

import os
import platform
import re
import shutil
import subprocess
from typing import Any, Dict, List, Optional

#: Files that tell what a machine is; their text goes over as it stands and is read on the other side.
FILES = (
    "/proc/cpuinfo",
    "/proc/device-tree/model",
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
    "/etc/nv_tegra_release",
    "/proc/driver/nvidia/version",
)
_LONGEST = 16384
_TOOL_SECONDS = 3.0
#: Bits of `vcgencmd get_throttled`, https://www.raspberrypi.com/documentation/computers/os.html#get_throttled.
_THROTTLED = {
    0: "under-voltage now",
    1: "clock capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage has occurred",
    17: "clock capping has occurred",
    18: "throttling has occurred",
    19: "soft temperature limit has occurred",
}


def facts() -> Dict[str, Any]:
    """What does not change while the machine runs; JSON values."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 0
    texts = {path: _unique_lines(read(path)) for path in FILES}
    return {
        "files": {path: text for path, text in texts.items() if text},
        "affinity_cores": affinity,
        "memory_bytes": memory,
        "system": platform.system(),
        "machine": platform.machine(),
        "kernel": platform.release(),
    }


def versions() -> Dict[str, Optional[str]]:
    """Versions of Python and of what times models; None is missing."""
    found = {"python": platform.python_version()}  # type: Dict[str, Optional[str]]
    for name in ("numpy", "onnxruntime"):
        try:
            found[name] = str(__import__(name).__version__)
        except Exception:  # a broken package says so in many ways
            found[name] = None
    return found


def sensors() -> Dict[str, Any]:
    """Load, clocks in MHz, temperatures in degrees Celsius, throttling and power, as far as the board tells them."""
    found = {}  # type: Dict[str, Any]
    if hasattr(os, "getloadavg"):
        found["load"] = os.getloadavg()[0]
    clocks = [_number("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq" % cpu) for cpu in range(64)]
    if any(clocks):
        found["clocks_mhz"] = [round(clock / 1e3) for clock in clocks if clock is not None]
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    if governor:
        found["governor"] = governor
    temperatures = {}
    for zone in range(32):
        folder = "/sys/class/thermal/thermal_zone%d" % zone
        millis = _number(folder + "/temp")
        # Tegra's PMIC zone always reads 100 degrees.
        if millis is not None and not read(folder + "/type").startswith("PMIC"):
            temperatures[read(folder + "/type").strip() or "zone%d" % zone] = round(millis / 1e3, 1)
    if temperatures:
        found["temperatures_c"] = temperatures
    found.update(parse_vcgencmd({what: _tool(["vcgencmd", *what.split()]) for what in _VCGENCMD}))
    found.update(parse_tegrastats(_first_line_of(["tegrastats", "--interval", "100"])))
    mode = re.search(r"NV Power Mode: *(\S+)", _tool(["nvpmodel", "-q"]))
    if mode:
        found["power_mode"] = mode.group(1)
    return found


_VCGENCMD = ("measure_temp", "measure_clock arm", "get_throttled")


def parse_vcgencmd(texts: Dict[str, str]) -> Dict[str, Any]:
    """Read the answers of a Raspberry Pi's firmware, by command."""
    found = {}  # type: Dict[str, Any]
    temperature = re.search(r"temp=([\d.]+)", texts.get("measure_temp", ""))
    if temperature:
        found["firmware_temperature_c"] = float(temperature.group(1))
    clock = re.search(r"frequency\(\d+\)=(\d+)", texts.get("measure_clock arm", ""))
    if clock:
        found["firmware_clock_mhz"] = round(int(clock.group(1)) / 1e6)
    throttled = re.search(r"throttled=0x([0-9a-fA-F]+)", texts.get("get_throttled", ""))
    if throttled:
        bits = int(throttled.group(1), 16)
        found["throttling"] = [meaning for bit, meaning in sorted(_THROTTLED.items()) if bits >> bit & 1]
    return found


def parse_tegrastats(line: str) -> Dict[str, Any]:
    """Read one line of a Jetson's `tegrastats`: temperatures, GPU load and power rails in mW."""
    found = {}  # type: Dict[str, Any]
    temperatures = {
        name: float(value) for name, value in re.findall(r"(\w+)@([\d.]+)C", line) if not name.startswith("PMIC")
    }
    if temperatures:
        found["tegra_temperatures_c"] = temperatures
    load = re.search(r"GR3D_FREQ (\d+)%", line)
    if load:
        found["gpu_load_percent"] = int(load.group(1))
    rails = {name: int(now) for name, now in re.findall(r"\b((?:POM|VDD|VIN)_\w+) (\d+)(?:mW)?/\d+(?:mW)?", line)}
    if rails:
        found["rails_mw"] = rails
    return found


def read(path: str) -> str:
    """A small text file, or nothing where it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read(1 << 20).strip("\0 \n")
    except OSError:
        return ""


def _unique_lines(text: str) -> str:
    """The text with each line once: 64 cores describe themselves in the same words."""
    return "\n".join(dict.fromkeys(text.splitlines()))[:_LONGEST]


def _number(path: str) -> Optional[float]:
    try:
        return float(read(path))
    except ValueError:
        return None


def _tool(command: List[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TOOL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _first_line_of(command: List[str]) -> str:
    """The first line of a program that would go on for ever."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    try:
        assert process.stdout is not None
        return process.stdout.readline().decode("utf-8", "replace")
    finally:
        process.kill()
        process.communicate()
