"""What can this machine run, which precisions are fast on it, how noisy is its timer, and is everything there?"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autocompress.core.errors import DataError
from autocompress.core.measurement import TimingPolicy

#: What a release needs, by distribution name.
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxruntime", "optuna", "numpy", "pandas")
#: Extras: the distribution that tells whether they are installed, and what they are for.
EXTRAS = {
    "tvm": ("apache-tvm", "a runtime of a later release"),
    "ray": ("ray", "searches over a cluster, in a later release"),
    "postgres": ("psycopg", "studies of several machines, in a later release"),
    "dashboard": ("optuna-dashboard", "watching study.db in a browser"),
    "hf": ("transformers", "your own factories that load models or data from there"),
    "vision": ("pillow", "--data imagefolder:DIR"),
}
#: Half-width of a ratio's interval past which timings on this machine mean little.
NOISE = 0.03
#: Share of time that a hypervisor takes away past which it is worth a word.
STEAL = 0.02
#: A precision is faster, or slower, than float32 where its whole interval is this far from 1.
NOTABLE = 0.03
#: Free bytes under which a search may end for want of space.
LITTLE_SPACE = 2e9
NOISE_RUNS = 6
_NOISE_POLICY = TimingPolicy(block_ms=40.0, half_width=0.01, max_seconds=1.0, min_blocks=6, warmup_seconds=0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Args:
        check: what was looked at.
        ok: whether nothing needs doing.
        found: in words.
        advice: what to do where it is not ok.
        figures: what was measured; JSON values.
    """

    check: str
    ok: bool = True
    found: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def checks() -> list[dict[str, Any]]:
    """One record a check: ``check``, ``ok``, ``found``, ``figures`` and, where something can be done, ``advice``."""
    groups = (_host, _runtimes, _precisions, _noise, _counters, _packages, _extras, _ssh, _data, _folders)
    return [asdict(check) for group in groups for check in _guarded(group)]


def _guarded(group: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """A check that itself fails is a finding, not the end of the others."""
    try:
        yield from group()
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        name = group.__name__.strip("_")
        yield Check(check=name, ok=False, found=f"{type(error).__name__}: {first}", advice="this check itself failed")


def _host() -> Iterator[Check]:
    from autocompress.hardware.host import host_facts

    host = host_facts()
    yield Check(check="processor", found=f"{host.cpu}, {host.cores} usable cores")
    fast = {"avx512_vnni", "avx_vnni", "dotprod", "i8mm", "amx_int8"} & set(host.isa)
    advice = "no integer dot product: int8 may not be faster here; the search finds out"
    yield Check(
        check="integer instructions",
        ok=bool(fast),
        found=", ".join(sorted(fast)) or "none",
        advice="" if fast else advice,
    )
    yield Check(check="Python", found=platform.python_version())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = load > 0.5 * host.cores
    yield Check(
        check="load",
        ok=not busy,
        found=f"{load:.1f} over the last minute",
        advice="other programs run: timings take longer and vary more" if busy else "",
        figures={"load": load},
    )


def _runtimes() -> Iterator[Check]:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    found = f"{onnxruntime.__version__}, providers {', '.join(providers)}; models are measured on CPU"
    yield Check(check="ONNX Runtime", found=found, figures={"providers": providers})


def _precisions() -> Iterator[Check]:
    """Latency of a small residual network as a share of float32's, as searches on this machine take it."""
    from autocompress.measure.runtimes.probe import probe_int8

    probe = probe_int8(threads=1)
    readings = {"fp16": probe.fp16, "int8, uint8 activations": probe.uint8, "int8, int8 activations": probe.int8}
    for name, reading in readings.items():
        low, high = reading.interval.low, reading.interval.high
        verdict = "faster" if high < 1 - NOTABLE else "slower" if low > 1 + NOTABLE else "no faster"
        used = not name.startswith("int8") or name.endswith(f"{probe.activation_type} activations")
        remark = "" if used else "; searches use the other kind"
        # Nobody can mend what is slow: searches on this machine do not offer it, or find out.
        yield Check(
            check=f"{name.partition(',')[0]} ({name.partition(', ')[2] or 'throughout'})",
            found=f"{verdict}: {reading.ratio:.2f} [{low:.2f}, {high:.2f}] of fp32's latency, {probe.when}{remark}",
            figures={"ratio": reading.ratio, "interval": [low, high], "verdict": verdict, "measured": probe.when},
        )
    ok = probe.int8_ratio < 1
    yield Check(
        check="fast precisions",
        ok=ok,
        found=", ".join(
            ["fp32", *(["fp16"] if probe.fp16.interval.high < 1 - NOTABLE else []), *(["int8"] if ok else [])]
        ),
        advice="" if ok else "int8 does not pay here; search with --space prune",
    )


def _noise() -> Iterator[Check]:
    """A model timed against itself, again and again."""
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
    from autocompress.measure.runtimes.probe_nets import residual_net
    from autocompress.measure.self_comparison import compare, summary

    comparisons = compare(OnnxRuntime(threads=1), residual_net("fp32"), NOISE_RUNS, _NOISE_POLICY)
    figures = {**summary(comparisons), "steal_share": _steal_share(comparisons)}
    wrong, width = figures["false_difference_share"], figures["median_half_width"]
    quiet = wrong <= 1 / NOISE_RUNS and width < NOISE
    advice = "timings here are noisy: stop other programs, give more --budget; `measure A.onnx --aa` looks closer"
    yield Check(
        check="timer",
        ok=quiet,
        found=(
            f"a model against itself, {NOISE_RUNS} times for 1 s at most: a difference of 1% or more in {wrong:.0%}, "
            f"of any size in {figures['false_alarm_share']:.0%}; half-width of the interval {width:.1%}, "
            f"{figures['kept_share']:.0%} of the rounds calm"
        ),
        advice="" if quiet else advice,
        figures=figures,
    )
    steal = figures["steal_share"]
    if steal is not None:
        yield Check(
            check="steal time",
            ok=steal < STEAL,
            found=f"{steal:.1%} of the processor's time went to other guests of this host",
            advice=""
            if steal < STEAL
            else "neighbours of this virtual machine: rounds that they disturb are left out, so timings take longer",
            figures={"share": steal},
        )


def _steal_share(comparisons: list[dict[str, Any]]) -> float | None:
    """Share of all cores' time, where the system tells."""
    if not hasattr(os, "sysconf") or not Path("/proc/stat").exists():
        return None
    ticks = sum((c["machine"] or {}).get("steal_ticks", 0) for c in comparisons)
    seconds = sum(c["seconds"] or 0.0 for c in comparisons)
    return ticks / os.sysconf("SC_CLK_TCK") / max(seconds, 1e-9) / (os.cpu_count() or 1)


def _counters() -> Iterator[Check]:
    from autocompress.measure.energy import POWERCAP, open_counter

    with open_counter() as counter:
        found = "no counter: energy is estimated here" if counter is None else counter.name
    hidden = counter is None and any(POWERCAP.glob("intel-rapl:*"))
    yield Check(
        check="energy",
        ok=not hidden,
        found=found,
        advice=f"RAPL is for root only: sudo chmod a+r {POWERCAP}/intel-rapl:*/energy_uj" if hidden else "",
    )


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        found = _version(name)
        advice = "" if found else "pip install autocompress"
        yield Check(check=name, ok=found is not None, found=found or "missing", advice=advice)


def _extras() -> Iterator[Check]:
    for extra, (name, purpose) in EXTRAS.items():
        found = _version(name)
        # An extra that is missing is nothing to mend, but the command is worth knowing.
        command = f"pip install 'autocompress[{extra}]'"
        yield Check(
            check=f"extra {extra}",
            found=f"{name} {found}" if found else f"not installed; for {purpose}: {command}",
            advice="" if found else command,
        )


def _ssh() -> Iterator[Check]:
    path = shutil.which("ssh")
    if path is None:
        advice = "install OpenSSH's client to measure on boards (Debian: apt-get install openssh-client)"
        yield Check(check="ssh client", ok=False, found="none", advice=advice)
        return
    told = subprocess.run([path, "-V"], capture_output=True, text=True, timeout=10, check=False)
    yield Check(check="ssh client", found=(told.stderr or told.stdout).strip().partition(",")[0] or path)


def _data() -> Iterator[Check]:
    from autocompress.evaluate.data import load_data

    yield Check(check="demo data", found=f"{len(load_data('demo').train)} training images")
    try:
        found = f"{len(load_data('fashion-mnist').train)} training images"
    except DataError:
        found = "not installed (Debian: apt-get install dataset-fashion-mnist); only --data fashion-mnist needs it"
    yield Check(check="fashion-mnist", found=found)


def _folders() -> Iterator[Check]:
    from autocompress.measure.cache import CACHE_VARIABLE, cache_folder, folder_bytes
    from autocompress.measure.store import MeasurementStore

    folder, problems = cache_folder(), list[str]()
    kept = MeasurementStore(on_message=problems.append).count()
    size = folder_bytes(folder)
    yield Check(
        check="cache folder",
        ok=_writable(folder) and not problems,
        found=" ".join([f"{folder}, {size / 1e6:.2f} MB, {kept} measurements", *problems]),
        advice="" if _writable(folder) else f"it cannot be written: set {CACHE_VARIABLE} to another",
        figures={"path": str(folder), "bytes": size, "measurements": kept},
    )
    here = Path.cwd()
    free = shutil.disk_usage(_existing(here)).free
    advice = "it cannot be written: give --out another folder"
    if _writable(here):
        advice = "" if free >= LITTLE_SPACE else "little space is left: large models' fronts may not fit"
    yield Check(
        check="working folder",
        ok=not advice,
        found=f"{here}, {free / 1e9:.1f} GB free",
        advice=advice,
        figures={"path": str(here), "free_bytes": free},
    )


def _writable(folder: Path) -> bool:
    return os.access(_existing(folder), os.W_OK)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
