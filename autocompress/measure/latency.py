"""Turn what was timed and weighed into measurements."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from autocompress.core.errors import ModelError
from autocompress.core.measurement import Interval, Measurement, PairedTiming, Provenance
from autocompress.core.tool import READS

#: Suffixes of files that no other file belongs to.
_STANDING_ALONE = tuple(s for kind, suffixes in READS.items() if kind != "onnx" for s in suffixes)


def reference_level_ms(timing: PairedTiming) -> float:
    """The reference's latency at its calm level: the median of the rounds that count, milliseconds."""
    return statistics.median(timing.kept_reference_ms)


def latency_measurement(
    timing: PairedTiming, *, reference_ms: float | None = None, target: str, runtime: Mapping[str, Any]
) -> Measurement:
    """The candidate's latency: the ratio to the reference times the reference's own latency.

    All candidates of a run share one ``reference_ms``, so what separates them is the interleaved ratio alone and not
    how busy the machine was in their minute. The interval is that of the ratio.

    Args:
        timing: candidate against reference.
        reference_ms: the reference at its calm level; that of ``timing`` where None.
        target: the profile's name.
        runtime: as the runtime's ``describe()`` gives it.

    Returns:
        ``latency_ms`` with the rounds' raw samples; ``details`` tells which of them were kept.
    """
    level = reference_level_ms(timing) if reference_ms is None else reference_ms
    found = timing.ratio_interval
    return Measurement(
        metric="latency_ms",
        value=timing.ratio * level,
        unit="ms",
        provenance=Provenance.MEASURED,
        interval=Interval(low=found.low * level, high=found.high * level, confidence=found.confidence),
        samples=timing.candidate_ms,
        reference_samples=timing.reference_ms,
        target=target,
        runtime=runtime_title(runtime),
        fingerprint=str(runtime.get("fingerprint", "")),
        when=now(),
        details={
            **timing.details,
            "ratio": timing.ratio,
            "ratio_interval": [found.low, found.high, found.confidence],
            "reference_ms": level,
            "kept": list(timing.kept),
            "kept_share": timing.kept_share,
            "threads": runtime.get("threads"),
            "spinning": runtime.get("spinning"),
            "affinity": runtime.get("affinity"),
        },
    )


def size_measurement(model: str | PathLike[str] | bytes, *, target: str = "local") -> Measurement:
    """Bytes of a serialized model, or of a model file with the data files it names.

    Raises:
        ModelError: there is no such file.
    """
    size = float(len(model) if isinstance(model, bytes) else model_file_bytes(model))
    return Measurement(
        metric="size_bytes",
        value=size,
        unit="bytes",
        provenance=Provenance.MEASURED,
        samples=(size,),
        target=target,
        when=now(),
    )


def model_file_bytes(path: str | PathLike[str]) -> int:
    """Bytes of a model file and of the external data files it names.

    Raises:
        ModelError: as :func:`model_files`.
    """
    return sum(part.stat().st_size for part in model_files(path))


def model_files(path: str | PathLike[str]) -> list[Path]:
    """A model file and the external data files it names; files of other formats that tools time stand alone.

    Raises:
        ModelError: one is missing or does not lie beside the model, or it is not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no model file {str(file)!r}.")
    if file.suffix.lower() in _STANDING_ALONE:
        return [file]
    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(f"{str(file)!r} is not an ONNX model.") from error
    locations = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    for name in sorted(locations):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{str(file)!r} keeps weights in {name!r}, which does not lie beside it.")
        if not (file.parent / name).is_file():
            raise ModelError(f"{str(file)!r} keeps weights in {name!r}, but there is no such file beside it.")
    return [file, *(file.parent / name for name in sorted(locations))]


def runtime_title(runtime: Mapping[str, Any]) -> str:
    """Name, version and provider in one line, such as ``onnxruntime 1.31.0 cpu``."""
    parts = (runtime.get(key) for key in ("name", "version", "provider"))
    return " ".join(str(part) for part in parts if part)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
