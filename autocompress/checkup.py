"""Is this machine fit to measure on, and is everything there?"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autocompress.core.errors import DataError
from autocompress.core.measurement import TimingPolicy

#: What a release needs, by distribution name.
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxruntime", "optuna", "numpy", "pandas")
#: Extras, with the distribution that tells whether they are installed.
EXTRAS = {"tvm": "apache-tvm", "ray": "ray", "postgres": "psycopg", "dashboard": "optuna-dashboard", "vision": "pillow"}
#: Ratio of equal models to each other past which timings on this machine mean little.
NOISE = 0.03
_NOISE_POLICY = TimingPolicy(block_ms=60.0, half_width=0.005, max_seconds=2.0, min_blocks=10)


def checks() -> list[dict[str, Any]]:
    """One record a check: ``check``, ``ok``, ``found`` and, where it is not ok, ``advice``."""
    return [
        {"check": check, "ok": ok, "found": found, "advice": advice}
        for group in (_host, _packages, _speed, _noise, _data, _folders)
        for check, ok, found, advice in _guarded(group)
    ]


def _guarded(group: Callable[[], Iterator[tuple[str, bool, str, str]]]) -> Iterator[tuple[str, bool, str, str]]:
    """A check that itself fails is a finding, not the end of the others."""
    try:
        yield from group()
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        yield group.__name__.strip("_"), False, f"{type(error).__name__}: {first}", "this check itself failed"


def _host() -> Iterator[tuple[str, bool, str, str]]:
    from autocompress.hardware.host import host_facts

    host = host_facts()
    yield "processor", True, f"{host.cpu}, {host.cores} usable cores", ""
    fast = {"avx512_vnni", "avx_vnni", "dotprod", "i8mm", "amx_int8"} & set(host.isa)
    advice = "no integer dot product: int8 may not be faster here; the search finds out"
    yield "integer instructions", bool(fast), ", ".join(sorted(fast)) or "none", advice
    yield "Python", True, platform.python_version(), ""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = load > 0.5 * host.cores
    yield "load", not busy, f"{load:.1f} over the last minute", "other programs run: timings take longer and vary more"


def _packages() -> Iterator[tuple[str, bool, str, str]]:
    for name in PACKAGES:
        found = _version(name)
        yield name, found is not None, found or "missing", "pip install autocompress"
    for extra, name in EXTRAS.items():
        found = _version(name)
        # An extra that is missing is nothing to mend.
        yield f"extra {extra}", True, found or f"not installed (pip install 'autocompress[{extra}]')", ""


def _speed() -> Iterator[tuple[str, bool, str, str]]:
    from autocompress.measure.runtimes.probe import probe_int8

    probe = probe_int8(threads=1)
    found = f"{probe.int8_ratio:.2f} of fp32's latency with {probe.activation_type} activations"
    yield "int8 in ONNX Runtime", probe.int8_ratio < 1, found, "int8 does not pay here; search with --space prune"
    yield "fp16 in ONNX Runtime", True, f"{probe.fp16.ratio:.2f} of fp32's latency", ""


def _noise() -> Iterator[tuple[str, bool, str, str]]:
    """A model timed against itself: the ratio should be 1."""
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
    from autocompress.measure.runtimes.probe_nets import residual_net

    runtime = OnnxRuntime(threads=1)
    net = residual_net("fp32")
    timing = runtime.time(runtime.build(net), runtime.build(net), _NOISE_POLICY)
    low, high = timing.ratio_interval.low, timing.ratio_interval.high
    found = f"{timing.ratio:.3f} [{low:.3f}, {high:.3f}], {timing.kept_share:.0%} of the rounds calm"
    quiet = abs(timing.ratio - 1) < NOISE and high - low < 2 * NOISE
    yield "a model against itself", quiet, found, "timings here are noisy: stop other programs, or give more --budget"


def _data() -> Iterator[tuple[str, bool, str, str]]:
    from autocompress.evaluate.data import load_data

    yield "demo data", True, f"{len(load_data('demo').train)} training images", ""
    try:
        found = f"{len(load_data('fashion-mnist').train)} training images"
    except DataError:
        found = "not installed (Debian: apt-get install dataset-fashion-mnist); only --data fashion-mnist needs it"
    yield "fashion-mnist", True, found, ""


def _folders() -> Iterator[tuple[str, bool, str, str]]:
    from autocompress.measure.cache import CACHE_VARIABLE, cache_folder

    folder = cache_folder()
    ok = _writable(folder)
    yield "cache folder", ok, str(folder), f"it cannot be written: set {CACHE_VARIABLE} to another"
    here = Path.cwd()
    yield "working folder", _writable(here), str(here), "it cannot be written: give --out another folder"


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
