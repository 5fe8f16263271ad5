"""Artifacts of the trials that are on the front, and of no other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autocompress.core.errors import ModelError, RunFolderError
from autocompress.core.measurement import Measurement
from autocompress.core.objective import Constraint, Objective
from autocompress.core.pareto import constrained_front
from autocompress.core.trial import Trial
from autocompress.graph.model_graph import ModelGraph
from autocompress.store.run_dir import RunFolder

MODEL, PLAN, METRICS = "model.onnx", "plan.json", "metrics.json"


class FrontKeeper:
    """Writes the artifact of each trial that joins the front, and removes those that it dominates.

    Args:
        run: its ``front`` folder is filled.
        objectives: what dominates what.
        constraints: trials that break one are kept only while nothing respects them all.
        history: trials of earlier sessions.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        history: Sequence[Trial] = (),
    ) -> None:
        self._run = run
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._trials = list(history)
        #: Artifacts on the front that were not measured again yet; asked at every step of healing, so it is kept.
        self.pending = 0
        # A killed session may have left an artifact whose trial never reached the study.
        self._remove_others(self._front_numbers())
        self._count()

    def keep(self, trial: Trial, graph: ModelGraph) -> None:
        """Take note of a finished trial; ``graph`` is its artifact, byte for byte.

        Raises:
            RunFolderError: the artifact cannot be written.
        """
        self._trials.append(trial)
        front = self._front_numbers()
        if trial.number in front:
            folder = self._run.front_folder(trial.number)
            try:
                graph.save(folder / MODEL)
            except ModelError as error:
                raise RunFolderError(str(error)) from error
            self._run.write_text(folder / PLAN, trial.plan.to_json())
            self._write_metrics(trial, artifact_sha256(folder / MODEL), final=False)
            self._remove_others(front)
            self._count()

    def finalists(self) -> list[tuple[Trial, Path]]:
        """Front trials with the paths of their artifacts; one measured again in an earlier session comes that way."""
        known = {trial.number: trial for trial in self._trials}
        found = []
        for number in self._front_numbers():
            path = artifact_folder(self._run, number) / MODEL
            if path.is_file():
                found.append((final_trial(self._run, known[number]) or known[number], path))
        return found

    def is_final(self, trial: Trial) -> bool:
        """Whether the trial's figures are the last word: measured again from a fresh process."""
        return final_trial(self._run, trial) is not None

    def finish(self, trials: Sequence[Trial]) -> int:
        """Note the last figures of the front's trials, and remove every other artifact.

        What these figures no longer put on the front is set aside: another session's constraints may want it, and
        without its figures it would come back by its luckier first reading.

        Returns:
            How many of them are on the front by these figures.

        Raises:
            RunFolderError: they cannot be written.
        """
        for trial in trials:
            metrics = read_metrics(self._run, trial.number) or {}
            self._write_metrics(trial, str(metrics.get("sha256", "")), final=True)
        self._remove_others([trial.number for trial in trials])
        front, _ = constrained_front(trials, self._objectives, self._constraints)
        shown = {trial.number for trial in front.trials}
        for trial in trials:
            self._move(trial.number, self._run.front if trial.number in shown else self._run.overtaken)
        self._count()
        return len(shown)

    def _move(self, number: int, place: Path) -> None:
        source, goal = artifact_folder(self._run, number), place / str(number)
        if source != goal and source.is_dir():
            try:
                place.mkdir(exist_ok=True)
                source.replace(goal)
            except OSError as error:
                raise RunFolderError(f"{str(source)!r} cannot be moved to {str(goal)!r}: {error}.") from error

    def _count(self) -> None:
        self.pending = sum(not self.is_final(trial) for trial, _ in self.finalists())

    def _front_numbers(self) -> list[int]:
        front, _ = constrained_front(self._trials, self._objectives, self._constraints)
        return [trial.number for trial in front.trials]

    def _remove_others(self, kept: Sequence[int]) -> None:
        for folder in _folders(self._run):
            if int(folder.name) not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _write_metrics(self, trial: Trial, sha256: str, *, final: bool) -> None:
        self._run.write_json(
            artifact_folder(self._run, trial.number) / METRICS,
            {
                "trial": trial.number,
                "label": trial.candidate.label,
                "plan_digest": trial.plan.digest,
                "sha256": sha256,
                "final": final,
                "measurements": {name: m.to_dict() for name, m in trial.measurements.items()},
            },
        )


def artifact_sha256(model: Path) -> str:
    """SHA-256 of a model file's bytes, hexadecimal; with its weights where they lie beside it, in ``<name>.data``."""
    digest = hashlib.sha256()
    for path in (model, model.with_name(f"{model.name}.data")):
        if path == model or path.is_file():
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
    return digest.hexdigest()


def artifact_folder(run: RunFolder, number: int) -> Path:
    """Where a trial's artifact lies, or would."""
    aside = run.overtaken / str(number)
    return aside if aside.is_dir() else run.front / str(number)


def read_metrics(run: RunFolder, number: int) -> dict[str, Any] | None:
    """What stands beside one artifact, or None where there is none.

    Raises:
        RunFolderError: it is not JSON.
    """
    path = artifact_folder(run, number) / METRICS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{str(path)!r} cannot be read: {error}.") from error
    return found if isinstance(found, dict) else None


def final_trial(run: RunFolder, trial: Trial) -> Trial | None:
    """The trial with the figures that it was given at the end of a search; None where it has none."""
    metrics = read_metrics(run, trial.number)
    if metrics is None or not metrics.get("final") or metrics.get("plan_digest") != trial.plan.digest:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        measurements = {name: Measurement.from_dict(m) for name, m in metrics["measurements"].items()}
        return trial.replace(measurements=measurements)
    return None


def has_pending(run: RunFolder) -> bool:
    """Whether an artifact waits to be measured again: a search is running, or was stopped before its end."""
    found = (read_metrics(run, int(folder.name)) for folder in _folders(run))
    return any(metrics is not None and not metrics.get("final") for metrics in found)


def _folders(run: RunFolder) -> list[Path]:
    places = [place for place in (run.front, run.overtaken) if place.is_dir()]
    return [folder for place in places for folder in place.iterdir() if folder.is_dir() and folder.name.isdigit()]
