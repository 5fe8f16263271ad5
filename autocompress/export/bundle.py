"""A folder that is ready to deploy: the file that was measured, what was done to it, and how to run it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.core.errors import RunFolderError, UserError
from autocompress.core.trial import Trial
from autocompress.export.loading_check import check_loads
from autocompress.export.readme import loader_readme
from autocompress.store.front_keeper import artifact_sha256
from autocompress.store.run_dir import RunFolder

MODEL, PLAN, METRICS, MANIFEST, README = "model.onnx", "plan.json", "metrics.json", "manifest.json", "README.md"


def export_bundle(run_dir: str | os.PathLike[str], trial: Trial, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Copy the artifact of one front trial, checked byte for byte and loaded once.

    Args:
        run_dir: run folder; the artifact lies in ``front/<number>``.
        trial: which point of the front.
        out: new or empty folder.

    Returns:
        ``folder``, ``trial``, ``label``, ``sha256``, ``size_bytes``, ``files`` and the headline ``metrics``.

    Raises:
        RunFolderError: the artifact is missing, or is not the one that was measured.
        ModelError: it cannot be loaded or run.
        UserError: ``out`` is not empty or cannot be written.
    """
    run = RunFolder.read(run_dir)
    source = run.front / str(trial.number)
    metrics = read_metrics(source)
    model = source / MODEL
    digest = checked_digest(model, metrics)
    signature = check_loads(model)
    target = Path(out)
    refuse_full(target)
    manifest = run.read_json(run.manifest.name) or {}
    texts = {
        PLAN: trial.plan.to_json(),
        METRICS: json_text(metrics),
        MANIFEST: json_text({"run": manifest, "trial": trial.number, "sha256": digest}),
        README: loader_readme(trial, signature, digest),
    }
    models = [model, *sorted(source.glob(f"{MODEL}.*"))]
    write_folder(target, texts, models)
    return {
        **headline(trial, target, digest),
        "size_bytes": sum(path.stat().st_size for path in models),
        "files": sorted([*texts, *(path.name for path in models)]),
    }


def headline(trial: Trial, folder: Path, digest: str) -> dict[str, Any]:
    """What an export says of its trial: ``folder``, ``trial``, ``label``, ``sha256`` and the ``metrics``."""
    return {
        "folder": str(folder),
        "trial": trial.number,
        "label": trial.candidate.label,
        "sha256": digest,
        "metrics": {
            name: {"value": m.value, "unit": m.unit, "provenance": m.provenance.value}
            for name, m in trial.measurements.items()
        },
    }


def read_metrics(source: Path) -> dict[str, Any]:
    """The record of an artifact, from its folder."""
    path = source / METRICS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{str(source)!r} holds no artifact: the trial is not on that run's front.") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise RunFolderError(f"{str(path)!r} holds no metrics.")
    return found


def checked_digest(model: Path, metrics: Mapping[str, Any]) -> str:
    """SHA-256 of an artifact, which must be the measured one's."""
    if not model.is_file():
        raise RunFolderError(f"The artifact {str(model)!r} is missing.")
    digest = artifact_sha256(model)
    recorded = metrics.get("sha256")
    if recorded != digest:
        raise RunFolderError(
            f"{str(model)!r} is not the file that was measured: its SHA-256 is {digest[:12]}…, "
            f"but {str(recorded)[:12]}… was recorded."
        )
    return digest


def refuse_full(out: Path) -> None:
    """Raise :class:`UserError` where an export would mix with something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{str(out)!r} is a file; --out names a new or empty folder.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{str(out)!r} is not empty; choose a new or empty folder.")


def write_folder(out: Path, texts: Mapping[str, str], models: list[Path]) -> None:
    """Fill a folder beside ``out`` and rename it: a kill leaves no half of a bundle under the right name."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for path in models:
            shutil.copyfile(path, temporary / path.name)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        temporary.replace(out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{str(out)!r} cannot be written: {error.strerror}.") from error


def json_text(data: Any) -> str:
    """A JSON file's text."""
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
