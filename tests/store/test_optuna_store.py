"""Trials in an Optuna study on disk."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from autocompress.core.errors import RunFolderError
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.objective import METRICS, Constraint, Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.store.optuna_store import INTERRUPTED, STUDY_NAME, OptunaStore, read_trials

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
SPACE = SearchSpace(
    choices=(
        Choice(name="precision:a", kind="precision", subject="a", options=("fp32", "int8")),
        Choice(name="ratio:g", kind="ratio", subject="g", options=(0.0, 0.25, 0.5), ordered=True),
    )
)


def measurement(metric: str, value: float) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        unit=METRICS[metric][0],
        provenance=Provenance.MEASURED,
        interval=Interval(low=value * 0.9, high=value * 1.1),
        samples=(value, value),
        details={"threads": 1, "kept": [True, True]},
    )


def make_trial(
    number: int = 0, state: TrialState = TrialState.COMPLETE, metrics: tuple[str, ...] = ("accuracy", "latency_ms")
) -> Trial:
    plan = CompressionPlan(
        layers={"a": LayerPlan(weight_bits=8, activation_bits=8)},
        prune={"g": 0.25},
        distillation=DistillationPlan(steps=number),
    )
    return Trial(
        number=number,
        candidate=Candidate(
            plan=plan, source="recipe", assignment={"precision:a": "int8", "ratio:g": 0.25}, label="int8 + 25%"
        ),
        state=state,
        measurements={metric: measurement(metric, 0.5 + number) for metric in metrics},
        error=None if state is TrialState.COMPLETE else "latency: too slow",
        stage_seconds={"prune": 0.25, "accuracy": 1.5},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


@pytest.fixture
def store(path: Path) -> Iterator[OptunaStore]:
    with OptunaStore(path, objectives=OBJECTIVES, space=SPACE) as opened:
        yield opened


def frozen(path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=storage).trials
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize("state", list(TrialState))
def test_a_trial_reads_back_as_it_was_written(store: OptunaStore, path: Path, state: TrialState) -> None:
    trial = make_trial(state=state)
    store.append(trial)
    store.close()
    with OptunaStore(path, objectives=OBJECTIVES) as again:
        assert again.trials() == (trial,) == read_trials(path)


def test_the_dashboard_sees_options_values_and_names(store: OptunaStore, path: Path) -> None:
    store.append(make_trial())
    (seen,) = frozen(path)
    assert seen.params == {"precision:a": "int8", "ratio:g": 0.25}
    assert seen.values == [0.5, 0.5]
    assert {k: seen.user_attrs[k] for k in ("source", "label", "accuracy", "latency_ms")} == {
        "source": "recipe",
        "label": "int8 + 25%",
        "accuracy": 0.5,
        "latency_ms": 0.5,
    }
    assert seen.duration is not None
    assert seen.duration.total_seconds() == pytest.approx(1.75)


def test_directions_and_names_follow_the_objectives(store: OptunaStore) -> None:
    assert [d.name for d in store.study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_optuna_says_nothing(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with OptunaStore(path, objectives=OBJECTIVES, space=SPACE) as store:
        store.append(make_trial())
    read_trials(path)
    assert capfd.readouterr() == ("", "")


def test_a_stopped_trial_keeps_what_was_measured(store: OptunaStore, path: Path) -> None:
    store.append(make_trial(state=TrialState.PRUNED, metrics=("latency_ms",)))
    (seen,) = frozen(path)
    assert (seen.state, seen.values) == (optuna.trial.TrialState.PRUNED, None)
    assert set(store.trials()[0].measurements) == {"latency_ms"}


def test_constraints_are_kept_as_optuna_reads_them(path: Path) -> None:
    bound = Constraint(metric="latency_ms", bound=0.4)
    with OptunaStore(path, objectives=OBJECTIVES, space=SPACE, constraints=(bound,)) as store:
        store.append(make_trial())
    assert frozen(path)[0].constraints == {"latency_ms <= 0.4": pytest.approx(0.1)}


def test_a_plan_from_outside_the_space_has_no_parameters(store: OptunaStore, path: Path) -> None:
    candidate = Candidate(plan=CompressionPlan(), source="baseline", assignment={"ratio:g": 0.3, "other": 1})
    store.append(replace(make_trial(), candidate=candidate))
    assert frozen(path)[0].params == {}
    assert store.trials()[0].candidate == candidate


def test_numbers_must_follow_each_other(store: OptunaStore) -> None:
    with pytest.raises(RunFolderError, match=r"next trial .* is 0, not 3"):
        store.append(make_trial(3))


def test_a_trial_in_flight_when_the_process_died_is_a_failure(store: OptunaStore, path: Path) -> None:
    store.append(make_trial())
    store.study.ask()
    store.close()
    with OptunaStore(path, objectives=OBJECTIVES, space=SPACE) as again:
        left = again.trials()[1]
        assert (left.state, left.error) == (TrialState.FAIL, INTERRUPTED)
        assert left.plan not in (CompressionPlan(), make_trial().plan)
        again.append(make_trial(2))
    assert [t.number for t in read_trials(path)] == [0, 1, 2]


def test_other_objectives_are_refused(store: OptunaStore, path: Path) -> None:
    store.append(make_trial())
    with pytest.raises(RunFolderError, match="accuracy, latency_ms, not of accuracy, size_bytes"):
        OptunaStore(path, objectives=(OBJECTIVES[0], Objective(metric="size_bytes")))


def test_a_corrupt_file_is_one_line(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 50)
    with pytest.raises(RunFolderError, match=r"study\.db") as caught:
        OptunaStore(path, objectives=OBJECTIVES)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_trials(path)


def test_a_missing_folder_or_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be opened"):
        OptunaStore(tmp_path / "nowhere" / "study.db", objectives=OBJECTIVES)
    with pytest.raises(RunFolderError, match="no study"):
        read_trials(tmp_path / "study.db")


def test_reading_leaves_a_trial_in_flight_alone(store: OptunaStore, path: Path) -> None:
    store.study.ask()
    assert read_trials(path) == ()
    assert frozen(path)[0].state is optuna.trial.TrialState.RUNNING


def test_what_append_returned_from_survives_a_kill(path: Path, tmp_path: Path) -> None:
    program = tmp_path / "append.py"
    program.write_text(
        textwrap.dedent(
            f"""
            from importlib.util import module_from_spec, spec_from_file_location
            spec = spec_from_file_location("shared", {__file__!r})
            shared = module_from_spec(spec)
            spec.loader.exec_module(shared)
            from autocompress.store.optuna_store import OptunaStore
            store = OptunaStore({str(path)!r}, objectives=shared.OBJECTIVES, space=shared.SPACE)
            for number in range(10_000):
                store.append(shared.make_trial(number))
                print(number, flush=True)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        said = [int(child.stdout.readline()) for _ in range(5)]
        child.send_signal(signal.SIGKILL)
        said += [int(line) for line in child.stdout if line.endswith("\n")]
    with OptunaStore(path, objectives=OBJECTIVES, space=SPACE) as again:
        kept: tuple[Trial, ...] = tuple(again.trials())
    assert len(said) <= len(kept) <= len(said) + 1
    assert kept == tuple(make_trial(number) for number in range(len(kept)))
