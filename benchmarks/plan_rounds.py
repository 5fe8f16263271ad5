"""From new plans to sessions that run them, stage by stage, each beside ONNX Runtime's session of the same file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
from common import Stopwatch, Times, milliseconds, ratio

from autocompress.compress.apply import Compressor
from autocompress.compress.calibrate import Calibration
from autocompress.core.plan import CompressionPlan
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.session import PROVIDER, session_options

STAGES = {
    "prune": "prune",
    "quantize": "fold and quantize",
    "build": "session from memory",
    "size": "bytes of the file, counted",
}


def plan_times(
    compressor: Compressor, calibration: Calibration, new_plan: Callable[[], CompressionPlan], *, rounds: int
) -> Times:
    """Seconds of each stage and of the reference, ``(rounds,)``; two rounds before them warm up."""
    runtime, watch = OnnxRuntime(threads=1), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for _ in range(2 + rounds):
            plan = new_plan()
            watch.new_round()
            with watch.stage("prune"):
                pruned = compressor.pruned(plan)
            with watch.stage("quantize"):
                artifact = compressor.finish(pruned, plan, calibration=calibration)
            with watch.stage("build"):
                built = runtime.build(artifact)
            with watch.stage("size"):
                artifact.size_bytes()
            del built
            artifact.save(path)
            with watch.stage("reference"):
                session = onnxruntime.InferenceSession(
                    str(path), session_options(threads=1, spinning=True), providers=[PROVIDER]
                )
            del session
    return {name: values[2:] for name, values in watch.times().items()}


def stage_rows(times: Times) -> list[tuple[str, str, str]]:
    """Rows of a table: milliseconds, and as a share of a session of the file."""
    reference = times["reference"]
    whole = times["prune"] + times["quantize"] + times["build"]
    return [
        *((title, milliseconds(times[name]), ratio(times[name], reference)) for name, title in STAGES.items()),
        ("plan to session", milliseconds(whole), ratio(whole, reference)),
        ("ONNX Runtime, session of the same file", milliseconds(reference), "1"),
    ]
