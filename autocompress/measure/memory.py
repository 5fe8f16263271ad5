"""Peak memory of the process that runs a model, less what the process takes without one.

Each sample is a process of its own that imports ONNX Runtime and nothing else that is large, notes its resident memory,
loads the model and runs it; its peak less that baseline is the model's. Where Linux lets a process reset its own peak
(``/proc/self/clear_refs``, proc(5)) the baseline is what is resident right before loading, else the peak until then.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from autocompress.core.errors import CandidateError, ModelError, TargetError, UserError
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.protocols import Batch
from autocompress.measure.latency import now, runtime_title
from autocompress.measure.plain_samples import from_plain, to_plain
from autocompress.measure.transports.local import Transport, ask_module, open_transport

REPEATS = 5
#: Inferences before the peak is read: the first ones make buffers that later ones reuse.
_RUNS = 3
_SECONDS = 300.0


def peak_memory(
    path: str | PathLike[str],
    *,
    threads: int = 1,
    repeats: int = REPEATS,
    sample: Batch | None = None,
    target: str = "local",
    transport: Transport | None = None,
) -> Measurement:
    """Peak memory of a model file on this machine.

    Args:
        path: of the model.
        threads: of one inference; each has buffers of its own.
        repeats: fresh processes.
        sample: inputs, each ``(n, ...)``, the first is run; random ones where None.
        target: name that the measurement carries.
        transport: what starts processes on this machine.

    Returns:
        ``peak_memory_bytes`` with one sample a process.

    Raises:
        CandidateError: the model cannot be loaded or run.
        UserError: no repeats, or there is no such file.
        TargetError: the system does not tell a process's peak.
    """
    if repeats < 1:
        raise UserError(f"`repeats` must be at least 1, but got {repeats}.")
    if not Path(path).is_file():
        raise ModelError(f"There is no model file {str(path)!r}.")
    device = open_transport() if transport is None else transport
    request = {"path": str(Path(path).resolve()), "threads": threads, "sample": to_plain(sample)}
    answers = []
    for _ in range(repeats):
        found = ask_module(device, __name__, request, timeout_seconds=_SECONDS, subject=str(path))
        if "error" in found:
            raise CandidateError("memory", str(found["error"]))
        if "unknown" in found:
            raise TargetError(str(found["unknown"]))
        answers.append(found)
    return memory_measurement(answers, target=target, about=answers[0]["about"])


def memory_measurement(answers: Sequence[Mapping[str, Any]], *, target: str, about: Mapping[str, Any]) -> Measurement:
    """A measurement of peaks, their baselines subtracted.

    Args:
        answers: one a fresh process, here or on a device, as :func:`answer` gives them.
        target: name that it carries.
        about: runtime and device, as ``describe()`` gives them.
    """
    from autocompress.measure.timing import median_interval

    values = tuple(max(0.0, float(found["peak_bytes"] - found["baseline_bytes"])) for found in answers)
    # Pages are counted whole and allocators differ by chance: fewer than six samples give their whole range.
    interval = median_interval(values) if len(values) > 1 else Interval(low=values[0], high=values[0])
    return Measurement(
        metric="peak_memory_bytes",
        value=float(statistics.median(values)),
        unit="bytes",
        provenance=Provenance.MEASURED,
        interval=interval,
        samples=values,
        target=target,
        runtime=runtime_title(about),
        fingerprint=str(about.get("fingerprint", "")),
        when=now(),
        details={
            "threads": about.get("threads"),
            "fresh_process": True,
            "baseline_bytes": statistics.median(found["baseline_bytes"] for found in answers),
            "baseline": answers[0]["baseline"],
        },
    )


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Load and run a model in this process, which must be a fresh one.

    Returns:
        ``baseline_bytes``, ``peak_bytes``, ``baseline`` (what the baseline is) and ``about``; ``error`` where the model
        fails, ``unknown`` where the system does not tell.
    """
    from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

    runtime = OnnxRuntime(threads=request["threads"])
    about = dict(runtime.describe())
    sample = from_plain(request["sample"])
    gc.collect()
    reset = _reset_peak()
    before = resident_bytes() if reset else peak_bytes()
    if before is None:
        return {"unknown": "This system does not tell how much memory a process takes; Linux and macOS do."}
    try:
        artifact = runtime.build(request["path"])
        call = artifact.bound_call(artifact.sample(sample))
        for _ in range(_RUNS):
            call()
    except CandidateError as error:
        return {"error": error.reason}
    except UserError as error:
        return {"error": str(error)}
    word = "resident memory after importing ONNX Runtime" if reset else "peak until ONNX Runtime was imported"
    return {"baseline_bytes": before, "peak_bytes": peak_bytes(), "baseline": word, "about": about}


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    return _status("VmRSS")


def peak_bytes() -> int | None:
    """Most resident memory that this process had; None where the system does not tell."""
    found = _status("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:
        return None
    # Kilobytes on Linux, bytes on macOS: getrusage(2).
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _reset_peak() -> bool:
    """Make the peak of this process its present resident memory; whether the system does."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.stdin.read()))) + "\n")
