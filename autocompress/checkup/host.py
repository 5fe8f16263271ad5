"""What this machine is fit for, and whether everything is there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autocompress.checkup.check import Check
from autocompress.checkup.machine import load, noise, precisions, processor
from autocompress.core.errors import DataError

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
#: Free bytes under which a search may end for want of space.
LITTLE_SPACE = 2e9


def _host() -> Iterator[Check]:
    from autocompress.hardware.host import host_facts

    host = host_facts()
    yield from processor(host)
    yield Check(check="Python", found=platform.python_version())
    yield from load(os.getloadavg()[0] if hasattr(os, "getloadavg") else None, host.cores)


def _runtimes() -> Iterator[Check]:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    found = f"{onnxruntime.__version__}, providers {', '.join(providers)}; models are measured on CPU"
    yield Check(check="ONNX Runtime", found=found, figures={"providers": providers})


def _precisions() -> Iterator[Check]:
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    yield from precisions(OnnxRuntime(threads=1))


def _noise() -> Iterator[Check]:
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    yield from noise(OnnxRuntime(threads=1), os.cpu_count() or 1)


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


#: In the order in which they are shown.
GROUPS = (_host, _runtimes, _precisions, _noise, _counters, _packages, _extras, _ssh, _data, _folders)
