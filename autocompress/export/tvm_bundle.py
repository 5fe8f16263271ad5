"""A folder that runs with TVM alone: compiled code, what runs it, its schedules, and what it was made with."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from autocompress.core.compile_target import CompileTarget
from autocompress.core.errors import CandidateError, ModelError, TargetError
from autocompress.core.trial import Trial
from autocompress.export.bundle import (
    MANIFEST,
    METRICS,
    MODEL,
    PLAN,
    checked_digest,
    headline,
    json_text,
    read_metrics,
    refuse_full,
    write_folder,
)
from autocompress.hardware.profiles import load_target
from autocompress.measure.runtimes.tvm import TvmRuntime
from autocompress.store.run_dir import RunFolder

LOADER = "run.py"


def export_tvm(
    run_dir: str | os.PathLike[str], trial: Trial, out: str | os.PathLike[str], *, target: str | None = None
) -> dict[str, Any]:
    """Compile the artifact of one front trial for a processor, with the schedules that are known for it.

    Args:
        run_dir: run folder; the artifact lies in ``front/<number>``.
        trial: which point of the front.
        out: new or empty folder.
        target: profile that says what to compile for; what the run was for where None.

    Returns:
        As of :func:`autocompress.export.bundle.export_bundle`, with the TVM ``target`` and how many ``kernels`` are
        tuned.

    Raises:
        RunFolderError: the artifact is missing, or is not the one that was measured.
        TargetError: nothing says what to compile for, or this TVM makes no code for it.
        ModelError: TVM cannot compile it.
        MissingExtraError: TVM is not installed.
        UserError: ``out`` is not empty or cannot be written.
    """
    run = RunFolder.read(run_dir)
    source = run.front / str(trial.number)
    metrics = read_metrics(source)
    digest = checked_digest(source / MODEL, metrics)
    refuse_full(Path(out))
    manifest = run.read_json(run.manifest.name) or {}
    wanted, threads = _compile_target(manifest, run.request, target)
    latency = trial.measurements.get("latency_ms")
    if latency is not None and latency.runtime.startswith("tvm"):
        threads = int(latency.details.get("threads", threads))
    with (
        tempfile.TemporaryDirectory(prefix="autocompress-") as folder,
        closing(TvmRuntime(threads=threads, target=wanted)) as runtime,
    ):
        try:
            told = runtime.export(runtime.build(source / MODEL), Path(folder))
        except CandidateError as error:
            raise ModelError(f"TVM cannot compile trial {trial.number}: {error.reason}.") from error
        files = sorted(Path(folder).iterdir())
        made = {
            "run": manifest,
            "trial": trial.number,
            "model_sha256": digest,
            "tvm": runtime.describe()["version"],
            "target": told["target"],
            "threads": threads,
            "inputs": told["inputs"],
            "outputs": told["outputs"],
            "kernels": told["kernels"],
            "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        }
        library = str(told["library"])
        texts = {
            PLAN: trial.plan.to_json(),
            METRICS: json_text(metrics),
            MANIFEST: json_text(made),
            LOADER: loader_text(library, made, wanted),
        }
        write_folder(Path(out), texts, files)
    return {
        **headline(trial, Path(out), digest),
        "size_bytes": (Path(out) / library).stat().st_size,
        "files": sorted([*texts, *(file.name for file in files)]),
        "target": told["target"],
        "kernels": f"{sum(kernel['trials'] > 0 for kernel in told['kernels'])} of {len(told['kernels'])} tuned",
    }


def loader_text(library: str, made: Mapping[str, Any], target: CompileTarget) -> str:
    """A program that runs the compiled model, on zeros or on a file's arrays."""
    inputs = ", ".join(f"({item['name']!r}, {tuple(item['shape'])!r}, {item['dtype']!r})" for item in made["inputs"])
    names = ", ".join(repr(item["name"]) for item in made["outputs"])
    device = "cpu" if target.kind == "llvm" else target.kind
    linking = "" if library.endswith(".so") else " A C compiler links the code when it is loaded first."
    return f'''"""Run the compiled model: python3 {LOADER} [INPUTS.npz [OUTPUTS.npz]]; without a file zeros go in.

Needs `pip install apache-tvm=={made["tvm"]} "apache-tvm-ffi<0.1.15" numpy`.{linking}
"""

import os
import pathlib
import sys

os.environ.setdefault("TVM_NUM_THREADS", "{made["threads"]}")

import numpy as np
import tvm
from tvm import relax

INPUTS = [{inputs}]
OUTPUTS = [{names}]

device = tvm.device("{device}", 0)
library = tvm.runtime.load_module(str(pathlib.Path(__file__).resolve().parent / "{library}"))
machine = relax.VirtualMachine(library, device)
given = dict(np.load(sys.argv[1])) if len(sys.argv) > 1 else {{}}
arrays = [np.asarray(given.get(name, np.zeros(shape)), dtype=dtype) for name, shape, dtype in INPUTS]
found = machine["main"](*[tvm.runtime.tensor(array, device) for array in arrays])
found = [found] if isinstance(found, tvm.runtime.Tensor) else list(found)
outputs = {{name: value.numpy() for name, value in zip(OUTPUTS, found)}}
if len(sys.argv) > 2:
    np.savez(sys.argv[2], **outputs)
for name, value in outputs.items():
    print(name, value.shape, value.dtype, value.ravel()[:8])
'''


def _compile_target(
    manifest: Mapping[str, Any], request: Mapping[str, Any], name: str | None
) -> tuple[CompileTarget, int]:
    """What to compile for, and for how many threads."""
    known = manifest.get("target")
    if name is None and isinstance(known, Mapping):
        spec = known.get("runtimes", {}).get("tvm", {})
        if spec.get("compile_target"):
            return CompileTarget.from_dict(spec["compile_target"]), int(spec["threads"])
    profile = load_target(name or str(request.get("target", "local")))
    found = profile.runtimes.get("tvm")
    if found is None or found.compile_target is None:
        raise TargetError(f"The profile of {profile.name} does not say what TVM compiles for: name another --target.")
    return found.compile_target, found.threads
