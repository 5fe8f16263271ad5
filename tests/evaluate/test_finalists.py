"""The last word on a front."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.errors import Interrupted, ModelError
from autocompress.core.measurement import Interval, Measurement, Provenance, TimingPolicy
from autocompress.core.trial import Trial
from autocompress.evaluate import finalists as finalists_module
from autocompress.evaluate.finalists import calm_levels, quality_with_test, remeasure
from autocompress.finish import busy_message
from autocompress.hardware.host import host_fingerprint
from autocompress.measure.calm_levels import CalmLevels
from autocompress.measure.file_timing import FileTiming
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

POLICY = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.2, warmup_seconds=0.02)


class Waiting:
    """A device's timer that begins when as many others do."""

    def __init__(self, start: threading.Barrier) -> None:
        self._start = start

    def __enter__(self) -> OnnxRuntime:
        self._start.wait()
        return OnnxRuntime()

    def __exit__(self, *reason: object) -> None:
        pass


def write(path: Path, outputs: int) -> Path:
    """A linear model as a file."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(np.ones((8, outputs), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return write(tmp_path / "baseline.onnx", 4)


@pytest.fixture
def finalists(tmp_path: Path, trial_factory: Callable[..., Trial]) -> list[tuple[Trial, Path]]:
    return [(trial_factory(n, latency_ms=float(n)), write(tmp_path / f"{n}.onnx", 4 + n)) for n in (1, 2)]


def measure(finalists: Any, baseline: Path, **options: Any) -> list[Trial]:
    given = {"reference_ms": 8.0, "target": "local", "threads": 1, "policy": POLICY, **options}
    return remeasure(finalists, baseline, **given)


def test_each_finalist_gets_a_new_latency_and_keeps_the_rest(
    finalists: list[tuple[Trial, Path]], baseline: Path
) -> None:
    found = measure(finalists, baseline)
    assert [trial.number for trial in found] == [1, 2]
    for (before, _), after in zip(finalists, found, strict=True):
        latency = after.measurements["latency_ms"]
        assert latency.value == pytest.approx(8.0 * latency.details["ratio"])
        assert latency.details["fresh_process"] is True
        assert {k: v for k, v in after.measurements.items() if k != "latency_ms"} == {
            k: v for k, v in before.measurements.items() if k != "latency_ms"
        }
        assert after.candidate == before.candidate


def test_the_searchs_own_figure_is_kept_so_that_luck_shows(finalists: list[tuple[Trial, Path]], baseline: Path) -> None:
    found = measure(finalists, baseline)
    assert [trial.measurements["latency_ms"].details["searched"] for trial in found] == [1.0, 2.0]


def test_the_new_latency_has_its_provenance(finalists: list[tuple[Trial, Path]], baseline: Path) -> None:
    latency = measure(finalists[:1], baseline, target="local", threads=1)[0].measurements["latency_ms"]
    assert latency.provenance is Provenance.MEASURED
    assert latency.samples and len(latency.samples) == len(latency.reference_samples)
    assert latency.runtime.startswith("onnxruntime ") and latency.runtime.endswith(" cpu")
    assert (latency.target, latency.fingerprint) == ("local", host_fingerprint())
    assert (latency.details["threads"], latency.details["spinning"]) == (1, True)
    assert Measurement.from_dict(latency.to_dict()) == latency


def test_the_sample_given_is_timed(finalists: list[tuple[Trial, Path]], baseline: Path) -> None:
    (found,) = measure(finalists[:1], baseline, sample=(np.zeros((3, 8), np.float32),))
    assert found.measurements["latency_ms"].details["sample_shapes"] == [[1, 8]]


def test_it_says_which_trial_comes_next_and_stops_when_asked(
    finalists: list[tuple[Trial, Path]], baseline: Path
) -> None:
    seen: list[int] = []
    with pytest.raises(Interrupted):
        measure(finalists, baseline, on_file=lambda t: seen.append(t.number), should_stop=lambda: len(seen) == 1)
    assert seen == [1]


def test_a_missing_artifact_is_named(finalists: list[tuple[Trial, Path]], baseline: Path) -> None:
    finalists[0][1].unlink()
    with pytest.raises(ModelError, match=r"1\.onnx"):
        measure(finalists, baseline)


def test_two_devices_time_two_files_at_once(finalists: list[tuple[Trial, Path]], baseline: Path) -> None:
    both = threading.Barrier(2, timeout=20)
    found = measure(finalists, baseline, lanes=2, fresh=lambda: Waiting(both))
    assert [trial.number for trial in found] == [1, 2]


def test_no_finalists_need_no_time(baseline: Path) -> None:
    assert measure([], baseline) == []


def test_the_test_sets_quality_stands_beside_the_validation_figure(trial_factory: Callable[..., Trial]) -> None:
    trial = trial_factory(3, accuracy=0.9)
    test = Measurement(
        metric="accuracy",
        value=0.88,
        unit="1",
        provenance=Provenance.MEASURED,
        interval=Interval(low=0.86, high=0.9),
        samples=(0.88,),
    )
    found = quality_with_test(trial, "accuracy", test)
    assert found.value("accuracy") == 0.9
    assert found.measurements["accuracy"].details["test"] == 0.88
    assert found.measurements["accuracy"].details["test_interval"] == [0.86, 0.9, 0.95]
    assert found.measurements["latency_ms"] == trial.measurements["latency_ms"]
    without = quality_with_test(trial, "accuracy", replace(test, interval=None))
    assert without.measurements["accuracy"].details["test_interval"] is None


def test_the_trial_given_stays_as_it_was(trial_factory: Callable[..., Trial]) -> None:
    trial = trial_factory(3)
    details = dict(trial.measurements["accuracy"].details)
    quality_with_test(trial, "accuracy", replace(trial.measurements["accuracy"], value=0.1))
    assert dict(trial.measurements["accuracy"].details) == details


def test_the_calm_level_is_that_of_the_calmest_trial(trial_factory: Callable[..., Trial]) -> None:
    def timed(number: int, levels: tuple[float, ...], **details: Any) -> Trial:
        trial = trial_factory(number)
        latency = replace(trial.measurements["latency_ms"], samples=levels, reference_samples=levels, details=details)
        return trial.replace(measurements={**trial.measurements, "latency_ms": latency})

    busy = timed(0, (0.5, 0.5), kept=[True, True], calm=False)
    calm = timed(1, (0.8, 0.9, 0.7, 0.2), kept=[True, True, True, False], calm=True)
    slower = timed(2, (1.0, 1.0), kept=[True, True], calm=True)
    assert calm_levels([busy, slower, calm]).lowest_ms == 0.8
    assert calm_levels([busy]).lowest_ms is None
    assert calm_levels([calm] + [slower] * 40).lowest_ms == 1.0, "the machine has warmed up since"


def _at(latency: Measurement, level: float, calm: bool) -> Measurement:
    return replace(latency, details={**latency.details, "calm": calm, "calm_level_ms": level})


@pytest.mark.parametrize(
    ("searched", "final", "stands"),
    [
        ((1.0, True), (1.3, False), "searched"),
        ((1.3, False), (1.2, False), "final"),
        ((1.1, False), (1.2, False), "searched"),
        ((1.0, True), (1.02, True), "final"),
        # It was called calm before a lower level was known.
        ((1.15, True), (1.1, False), "final"),
    ],
)
def test_the_less_disturbed_figure_is_the_last_word(
    finalists: list[tuple[Trial, Path]],
    baseline: Path,
    monkeypatch: pytest.MonkeyPatch,
    searched: tuple[float, bool],
    final: tuple[float, bool],
    stands: str,
) -> None:
    trial, path = finalists[0]
    before = _at(trial.measurements["latency_ms"], *searched)
    trial = replace(trial, measurements={**trial.measurements, "latency_ms": before})
    real = finalists_module.measure_against

    def on_a_busy_machine(*files: Any, **options: Any) -> list[FileTiming]:
        told = {"calm": final[1], "calm_level_ms": final[0]}
        return [
            replace(timing, details={**timing.details, **told})
            for timing in real(*files, **{**options, "levels": None})
        ]

    monkeypatch.setattr(finalists_module, "measure_against", on_a_busy_machine)
    levels = CalmLevels()
    levels.note((1.0,), {"calm": True})
    last = measure([(trial, path)], baseline, levels=levels)[0].measurements["latency_ms"]
    assert last.details["searched"] == 1.0
    assert (last.value == 1.0) is (stands == "searched")
    if stands == "searched":
        assert last.details["disturbed"]["calm_level_ms"] == final[0]
        assert last.details["disturbed"]["fresh_process"] and not last.details["fresh_process"]
        assert last.details["calm"] is searched[1]
    else:
        assert "disturbed" not in last.details


@pytest.mark.parametrize(
    ("searched", "others", "measured", "outvoted"),
    [
        (1.0, {"look_ms": 1.02}, 1.3, True),
        (1.0, {"other_ms": [0.98, 1.3]}, 1.32, True),
        (1.0, {"look_ms": 1.3}, 1.31, False),
        (1.3, {"other_ms": [1.02]}, 1.0, False),
        (1.0, {}, 1.3, False),
    ],
)
def test_a_disturbed_figure_may_be_outvoted_by_those_of_the_search(
    searched: float, others: dict[str, Any], measured: float, outvoted: bool, trial_factory: Callable[..., Trial]
) -> None:
    latency = trial_factory(0).measurements["latency_ms"]
    before = replace(latency, value=searched, interval=None, details={"calm_level_ms": 1.0, "calm": False, **others})
    after = replace(latency, value=measured, interval=None, details={"calm_level_ms": 1.0, "calm": False})
    last = finalists_module._last_word(before, after, None, TimingPolicy())
    assert last.value == (searched if outvoted else measured)
    calm = replace(after, details={**after.details, "calm": True})
    assert finalists_module._last_word(before, calm, None, TimingPolicy()).value == measured, "a calm figure stands"


def test_the_user_is_told_what_only_a_busy_machine_timed(finalists: list[tuple[Trial, Path]]) -> None:
    def marked(trial: Trial, calm: bool) -> Trial:
        latency = trial.measurements["latency_ms"]
        latency = replace(latency, details={**latency.details, "calm": calm})
        return replace(trial, measurements={**trial.measurements, "latency_ms": latency})

    (first, path), (second, other) = finalists
    assert busy_message([(marked(first, True), path)]) is None
    told = busy_message([(marked(first, True), path), (marked(second, False), other)])
    assert told == ("The machine was busy whenever trial 2 was timed: `autocompress measure` may find less latency.")
    kept = replace(first.measurements["latency_ms"], details={"calm": True, "disturbed": 2.0})
    told = busy_message([(replace(first, measurements={**first.measurements, "latency_ms": kept}), path)])
    assert told == "The machine was busy when trial 1 was timed again: the figure is that of the search itself."
