"""What the machine that runs this program is: processor, cores, instruction sets, memory, system."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Instruction sets that decide which kernels run, by our name, with the names they have in /proc/cpuinfo.
_LINUX_FLAGS: Mapping[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "fma": ("fma",),
    "avx512": ("avx512f",),
    "avx512_vnni": ("avx512_vnni",),
    "avx_vnni": ("avx_vnni",),
    "amx_int8": ("amx_int8",),
    "neon": ("asimd", "neon"),
    "fp16": ("asimdhp", "avx512_fp16"),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
}
_MAC_KEYS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512",
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
}
#: Windows: IsProcessorFeaturePresent, processthreadsapi.h.
_WINDOWS_FEATURES = {40: "avx2", 41: "avx512", 19: "neon", 43: "dotprod"}
_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
#: "CPU part" of Arm's own cores (implementer 0x41), from the cores' reference manuals (MIDR_EL1).
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The host as far as latency depends on it; no names of the machine or its user.

    Args:
        cpu: model of the processor.
        board: model of the board, where the system tells (single-board computers do).
        cores: that this process may use: affinity and container limits count.
        isa: instruction sets, sorted, of those that decide which kernels run.
        clock_ghz: nominal or current clock, None where unknown.
        memory_bytes: that this process may use.
        system: operating system and its kernel's name, such as ``Linux``.
        machine: architecture, such as ``x86_64`` or ``aarch64``.
    """

    cpu: str
    board: str
    cores: int
    isa: tuple[str, ...]
    clock_ghz: float | None
    memory_bytes: int
    system: str
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "isa": list(self.isa)}

    @property
    def fingerprint(self) -> str:
        """Readable, ending in 8 hexadecimal digits that are the same as long as the hardware and limits are."""
        memory = f"{max(1, round(self.memory_bytes / 2**30))} GiB"
        strongest = [name for name in self.isa if name not in ("fma", "neon")] or list(self.isa)
        parts = [self.board, self.cpu, f"{self.cores} core{'s' * (self.cores != 1)}", "+".join(strongest), memory]
        readable = ", ".join(part for part in (*parts, f"{self.system} {self.machine}") if part)
        return f"{readable} #{hashlib.sha256(readable.encode()).hexdigest()[:8]}"


@cache
def host_facts() -> HostFacts:
    """The facts of this machine; read once a process."""
    system, machine = platform.system() or sys.platform, platform.machine()
    return _facts(_read, cores=usable_cores(), memory_bytes=memory_bytes(), system=system, machine=machine)


def device_facts(told: Mapping[str, Any]) -> HostFacts:
    """The facts of another machine, from what its agent tells.

    Args:
        told: as :func:`autocompress.measure.agent_facts.facts` gives it.
    """
    files: Mapping[str, str] = told["files"]
    limits = [files.get(f"/sys/fs/cgroup/{name}", "").strip() for name in _MEMORY_LIMITS]
    memory = [int(limit) for limit in limits if limit.isdigit()] + [int(told["memory_bytes"])]

    def read(path: str) -> str:
        return files.get(path, "")

    return _facts(
        read,
        cores=max(1, min(int(told["affinity_cores"]), _cgroup_cores(read))),
        memory_bytes=min(memory),
        system=str(told["system"]),
        machine=str(told["machine"]),
    )


def _facts(read: Callable[[str], str], *, cores: int, memory_bytes: int, system: str, machine: str) -> HostFacts:
    cpuinfo = read("/proc/cpuinfo")
    cpu, isa, clock = parse_cpuinfo(cpuinfo, read) if cpuinfo else _ask_system() if read is _read else ("", (), None)
    return HostFacts(
        cpu=cpu or (platform.processor() if read is _read else "") or machine or "unknown processor",
        board=read("/proc/device-tree/model").strip("\0 \n"),
        cores=cores,
        isa=isa,
        clock_ghz=clock,
        memory_bytes=memory_bytes,
        system=system,
        machine=machine.lower().replace("amd64", "x86_64").replace("arm64", "aarch64"),
    )


def host_fingerprint() -> str:
    """Readable and stable identity of this machine; two machines that time alike share it."""
    return host_facts().fingerprint


def system_versions() -> dict[str, str]:
    """What besides the hardware decides how fast it runs: the kernel's release and the processor's microcode."""
    return {"kernel": platform.release(), "microcode": _microcode(_read("/proc/cpuinfo"))}


def device_versions(told: Mapping[str, Any]) -> dict[str, str]:
    """The same of another machine, from what its agent tells, and the release of its GPU's driver."""
    files = told.get("files", {})
    driver = files.get("/proc/driver/nvidia/version") or files.get("/etc/nv_tegra_release") or ""
    return {
        "kernel": str(told.get("kernel", "")),
        "microcode": _microcode(files.get("/proc/cpuinfo", "")),
        "driver": driver.partition("\n")[0],
    }


def _microcode(cpuinfo: str) -> str:
    found = re.search(r"^microcode\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    return found.group(1) if found else ""


def parse_cpuinfo(text: str, read: Callable[[str], str] | None = None) -> tuple[str, tuple[str, ...], float | None]:
    """Model, instruction sets and clock in GHz from the text of ``/proc/cpuinfo``."""
    values: dict[str, str] = {}
    parts: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key, value = key.strip(), value.strip()
        values.setdefault(key, value)
        if key == "CPU part":
            parts.add(value.lower())
    names = sorted(_ARM_PARTS.get(part, f"Arm part {part}") for part in parts)
    model = values.get("model name") or " + ".join(names) or values.get("Hardware", "")
    present = set((values.get("flags") or values.get("Features") or "").split())
    isa = tuple(sorted(ours for ours, theirs in _LINUX_FLAGS.items() if present.intersection(theirs)))
    return " ".join(model.split()), isa, _clock(model, values.get("cpu MHz"), read or _read)


def usable_cores() -> int:
    """Cores that this process may use: the least of affinity and container limit, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores(_read)))


def _cgroup_cores(read: Callable[[str], str]) -> int:
    """Cores that the control group grants, rounded up; a large number where there is no limit."""
    quota, period = [*read("/sys/fs/cgroup/cpu.max").split(), "", ""][:2]
    if not quota:
        quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return 2**16
    return max(1, math.ceil(int(quota) / int(period)))


def _clock(model: str, mhz: str | None, read: Callable[[str], str]) -> float | None:
    """The model's nominal clock where its name tells, else the current one, to 0.1 GHz."""
    named = re.search(r"@\s*([\d.]+)\s*GHz", model)
    if named:
        return float(named.group(1))
    try:
        return round(float(mhz or "") / 1000, 1) or None
    except ValueError:
        khz = read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
        return round(int(khz) / 1e6, 1) if khz.isdigit() else None


def memory_bytes() -> int:
    """Memory that this process may use, bytes; 0 where it is not known."""
    limits = [_read(f"/sys/fs/cgroup/{name}").strip() for name in _MEMORY_LIMITS]
    found = [int(limit) for limit in limits if limit.isdigit()]
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        total = _sysctl().get("hw.memsize", "")
        found.extend([int(total)] if total.isdigit() else [])
    return min(found, default=0)


def _ask_system() -> tuple[str, tuple[str, ...], float | None]:
    """Model, instruction sets and clock where there is no /proc: macOS and Windows."""
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        isa = tuple(sorted(name for number, name in _WINDOWS_FEATURES.items() if present(number)))
        return os.environ.get("PROCESSOR_IDENTIFIER", ""), isa, None
    values = _sysctl()
    isa = tuple(sorted({name for key, name in _MAC_KEYS.items() if values.get(key) == "1"}))
    hertz = values.get("hw.cpufrequency_max", "")
    model = values.get("machdep.cpu.brand_string", "")
    return model, isa, round(int(hertz) / 1e9, 1) if hertz.isdigit() else _clock(model, None, _read)


@cache
def _sysctl() -> dict[str, str]:
    """What `sysctl` says about the hardware; empty where there is none."""
    keys = ("machdep.cpu.brand_string", "hw.memsize", "hw.cpufrequency_max", *_MAC_KEYS)
    try:
        done = subprocess.run(["sysctl", *keys], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
