"""Trials in an Optuna study kept in one SQLite file, which `optuna-dashboard` opens."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import SQLAlchemyError

from autocompress.core.errors import RunFolderError
from autocompress.core.measurement import Measurement
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState

STUDY_NAME = "autocompress"
#: Why a trial failed that was in flight when the process was killed.
INTERRUPTED = "interrupted: the process ended while this trial ran"
_TRIAL = "trial"
_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAIL: OptunaState.FAIL,
}


class OptunaStore:
    """Finished trials, each written in one transaction: what :meth:`append` returned from survives a kill.

    The whole trial is JSON in the user attribute ``trial``; its headline figures stand beside it under their own names,
    and the options it chose are the study's parameters, so that the dashboard shows them. Trials from outside the space
    (baselines, recipes that it cannot express) have no parameters.

    Args:
        path: of the SQLite file; made where there is none.
        objectives: in order; the study's directions and metric names.
        space: whose choices become parameters; None stores none.
        constraints: kept with each trial as Optuna's constraints (more than 0 is a violation).

    Raises:
        RunFolderError: the file cannot be read or written, or holds a study with other objectives.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        objectives: Sequence[Objective],
        space: SearchSpace | None = None,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self.path = Path(path)
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._distributions: dict[str, BaseDistribution] = {
            choice.name: CategoricalDistribution(choice.options) for choice in (space.choices if space else ())
        }
        directions = [StudyDirection.MAXIMIZE if o.maximize else StudyDirection.MINIMIZE for o in objectives]
        try:
            with quiet_optuna():
                self._storage = RDBStorage(f"sqlite:///{self.path}")
                self.study = optuna.create_study(
                    storage=self._storage, study_name=STUDY_NAME, directions=directions, load_if_exists=True
                )
                self._check_objectives(directions)
                self._fail_leftovers()
                self._trials = [_from_frozen(frozen) for frozen in self.study.get_trials(deepcopy=False)]
        except (SQLAlchemyError, OptunaError, OSError) as error:
            raise RunFolderError(f"{str(self.path)!r} cannot be opened as a study: {_first(error)}") from error

    def append(self, trial: Trial) -> None:
        """Write one finished trial; it is on disk when this returns.

        Raises:
            RunFolderError: the file cannot be written, or ``trial.number`` is not the next one.
        """
        if trial.number != len(self._trials):
            raise RunFolderError(f"The next trial of {str(self.path)!r} is {len(self._trials)}, not {trial.number}.")
        try:
            with quiet_optuna():
                self.study.add_trial(self._frozen(trial))
        except (SQLAlchemyError, OptunaError, OSError, ValueError) as error:
            raise RunFolderError(
                f"Trial {trial.number} cannot be written to {str(self.path)!r}: {_first(error)}"
            ) from error
        self._trials.append(trial)

    def trials(self) -> Sequence[Trial]:
        """Every trial in order of number."""
        return tuple(self._trials)

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_objectives(self, directions: Sequence[StudyDirection]) -> None:
        names = [o.metric for o in self._objectives]
        known = self.study.metric_names
        if known is None and not self.study.get_trials(deepcopy=False):
            self.study.set_metric_names(names)
            known = names
        if list(known or []) != names or list(self.study.directions) != list(directions):
            raise RunFolderError(
                f"{str(self.path)!r} holds a study of {', '.join(known or ['other objectives'])}, "
                f"not of {', '.join(names)}."
            )

    def _fail_leftovers(self) -> None:
        """Trials that a worker had begun when it was killed become FAIL."""
        for frozen in self.study.get_trials(deepcopy=False, states=(OptunaState.RUNNING, OptunaState.WAITING)):
            self._storage.set_trial_user_attr(frozen._trial_id, "error", INTERRUPTED)
            self._storage.set_trial_state_values(frozen._trial_id, OptunaState.FAIL)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        complete = trial.state is TrialState.COMPLETE
        # A value that its distribution does not know (a recipe off the grid) would be refused by Optuna.
        params = {
            name: value
            for name, value in trial.candidate.assignment.items()
            if name in self._distributions and value in self._distributions[name].choices  # type: ignore[attr-defined]
        }
        frozen = create_trial(
            state=_STATES[trial.state],
            values=[trial.value(o.metric) for o in self._objectives] if complete else None,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            user_attrs={_TRIAL: json.dumps(trial_to_dict(trial)), **_headline(trial)},
            system_attrs={
                f"constraints:{c}": c.violation(trial.value(c.metric))
                for c in self._constraints
                if c.metric in trial.measurements
            },
        )
        frozen.datetime_complete = datetime.now()
        frozen.datetime_start = frozen.datetime_complete - timedelta(seconds=sum(trial.stage_seconds.values()))
        return frozen


def read_trials(path: str | PathLike[str]) -> tuple[Trial, ...]:
    """Trials of a study that a search may be writing to; nothing is changed.

    Raises:
        RunFolderError: there is no such file or it holds no study of ours.
    """
    if not Path(path).is_file():
        raise RunFolderError(f"There is no study {str(path)!r}.")
    storage: RDBStorage | None = None
    try:
        with quiet_optuna():
            storage = RDBStorage(f"sqlite:///{path}")
            study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
            finished = study.get_trials(deepcopy=False, states=tuple(_STATES.values()))
        return tuple(_from_frozen(frozen) for frozen in finished)
    except (SQLAlchemyError, OptunaError, OSError, KeyError) as error:
        raise RunFolderError(f"{str(path)!r} cannot be read as a study: {_first(error)}") from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna neither logs a line for each trial nor warns that a sampler's option is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def trial_to_dict(trial: Trial) -> dict[str, Any]:
    """Plain JSON values; :func:`trial_from_dict` reads them back."""
    return {
        "number": trial.number,
        "state": trial.state.value,
        "source": trial.candidate.source,
        "label": trial.candidate.label,
        "assignment": dict(trial.candidate.assignment),
        "plan": trial.plan.to_dict(),
        "measurements": {name: m.to_dict() for name, m in trial.measurements.items()},
        "error": trial.error,
        "stage_seconds": dict(trial.stage_seconds),
        "stored": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def trial_from_dict(data: Mapping[str, Any]) -> Trial:
    """Read what :func:`trial_to_dict` wrote."""
    return Trial(
        number=data["number"],
        candidate=Candidate(
            plan=CompressionPlan.from_dict(data["plan"]),
            source=data["source"],
            label=data["label"],
            assignment=data["assignment"],
        ),
        state=TrialState(data["state"]),
        measurements={name: Measurement.from_dict(m) for name, m in data["measurements"].items()},
        error=data["error"],
        stage_seconds=data["stage_seconds"],
    )


def _from_frozen(frozen: FrozenTrial) -> Trial:
    text = frozen.user_attrs.get(_TRIAL)
    if text is not None:
        return trial_from_dict({**json.loads(text), "number": frozen.number})
    # Begun by another program, or killed before anything of it was known.
    error = frozen.user_attrs.get("error", "foreign: the study has a trial that this program did not write")
    candidate = Candidate(plan=_UNKNOWN_PLAN, source="unknown", label="unknown")
    return Trial(number=frozen.number, candidate=candidate, state=TrialState.FAIL, error=error)


#: Stands for a plan that was never written down; it names a layer that no graph has, so it equals no real plan.
_UNKNOWN_PLAN = CompressionPlan(prune={"(unknown)": 0.5})


def _headline(trial: Trial) -> dict[str, Any]:
    """What a person reads in the dashboard."""
    figures = {name: m.value for name, m in trial.measurements.items()}
    said = {"source": trial.candidate.source, "label": trial.candidate.label, "error": trial.error}
    return {**figures, **{name: value for name, value in said.items() if value}}


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
