"""Timings of model files that are not made twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from typing import Any

from autocompress.core.measurement import TimingPolicy
from autocompress.core.protocols import Batch
from autocompress.hardware.host import system_versions
from autocompress.measure.file_timing import FileTiming
from autocompress.measure.store import MeasurementStore, model_digest, sample_digest

#: Of the way comparisons are made and evaluated; raised when figures of another way should not be taken again.
PROTOCOL = 4


def latency_key(
    candidate: str | PathLike[str],
    reference: str | PathLike[str],
    *,
    about: Mapping[str, Any],
    policy: TimingPolicy,
    sample: Batch | None,
) -> dict[str, Any]:
    """What a comparison depends on.

    Args:
        candidate: model file.
        reference: model file.
        about: runtime and device, as ``describe()`` gives them.
        policy: of the comparison.
        sample: inputs.
    """
    return {
        "metric": "latency_ms",
        "protocol": PROTOCOL,
        "candidate": model_digest(candidate),
        "reference": model_digest(reference),
        "runtime": dict(about),
        "policy": asdict(replace(policy, calm_ms=None)),
        "sample": sample_digest(sample),
    }


def about_here(*, threads: int, spinning: bool, affinity: Sequence[int] | None = None) -> dict[str, Any]:
    """This machine and its runtime: a new kernel, microcode or build of ONNX Runtime is another one."""
    import onnxruntime

    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    about = OnnxRuntime(threads=threads, spinning=spinning, affinity=affinity).describe()
    return {**about, "build": onnxruntime.get_build_info(), **system_versions()}


def kept_timing(store: MeasurementStore, key: Mapping[str, Any], path: str) -> FileTiming | None:
    """An earlier measurement, which says when it was made; None where there is none that can be read."""
    entry = store.read(key)
    try:
        timing = None if entry is None else FileTiming.from_dict({**entry, "path": path})
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return None if timing is None else replace(timing, details={**timing.details, "cached": timing.when})


def keep_timing(store: MeasurementStore | None, key: Mapping[str, Any], timing: FileTiming) -> FileTiming:
    """Keep a new measurement, unless the machine was busy: then the next time measures again. Returns it."""
    if store is not None and timing.details.get("calm", True) and not timing.is_cached:
        store.write(key, timing.to_dict())
    return timing
