"""A model against itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.errors import ModelError, TargetError, UserError
from autocompress.core.measurement import TimingPolicy
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.self_comparison import compare_with_itself, runs_needed, summary, verdict

POLICY = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.2, min_blocks=4, warmup_seconds=0.02)


def run(low: float, ratio: float, high: float, *, calm: bool = True, rounds_kept: int = 9) -> dict[str, Any]:
    interval = [low, high, 0.95]
    return {"ratio": ratio, "ratio_interval": interval, "calm": calm, "kept_share": 0.5, "rounds_kept": rounds_kept}


def test_a_series_tells_how_often_a_difference_is_found_where_there_is_none() -> None:
    found = summary(
        [
            run(0.98, 1.00, 1.02),
            run(1.001, 1.005, 1.009),
            run(1.01, 1.02, 1.03, calm=False),
            run(0.95, 0.985, 1.02),
        ]
    )
    assert found["false_alarm_share"] == 0.5
    assert found["notable_share"] == 0.5
    assert found["false_difference_share"] == 0.25
    assert found["calm_share"] == 0.75
    assert found["worst_ratio"] == 1.02
    assert found["median_half_width"] == pytest.approx((0.01 / 1.02 + 0.02) / 2)


def test_the_share_comes_with_its_interval() -> None:
    found = summary([run(0.98, 1.00, 1.02)] * 9 + [run(1.01, 1.02, 1.03)])
    # Wilson's interval of 1 in 10.
    assert found["false_alarm_interval"] == [pytest.approx(0.0179, abs=1e-4), pytest.approx(0.4042, abs=1e-4), 0.95]
    assert found["false_difference_interval"] == found["false_alarm_interval"]


def test_a_run_with_too_few_calm_rounds_can_tell_nothing() -> None:
    found = summary([run(1.01, 1.02, 1.03, rounds_kept=5), run(0.98, 1.00, 1.02)])
    assert (found["runs"], found["told"], found["false_alarm_share"]) == (2, 1, 0.0)
    nothing = summary([run(1.01, 1.02, 1.03, rounds_kept=5)])
    assert (nothing["told"], nothing["false_alarm_share"], nothing["false_alarm_interval"]) == (0, None, None)
    assert nothing["verdict"] == "cannot tell"


@pytest.mark.parametrize(
    ("alarms", "runs", "said"),
    [
        (0, 0, "cannot tell"),
        (0, 10, "cannot tell"),
        (0, 35, "good"),
        (2, 100, "good"),
        (3, 10, "bad"),
        (20, 100, "bad"),
    ],
)
def test_few_runs_cannot_tell_a_good_timer_from_a_bad_one(alarms: int, runs: int, said: str) -> None:
    assert verdict(alarms, runs) == said
    assert runs_needed() == 35


def test_a_fresh_process_makes_every_comparison(linear_file: Path) -> None:
    found = compare_with_itself(linear_file, runs=3, policy=POLICY)
    assert len(found["comparisons"]) == found["runs"] == 3
    assert found["path"] == str(linear_file) and found["runtime"].startswith("onnxruntime ")
    assert all(run["ratio_interval"][0] <= run["ratio"] <= run["ratio_interval"][1] for run in found["comparisons"])
    assert json.loads(json.dumps(found)) == found


def test_a_device_is_asked_in_one_process_of_its_own(linear_file: Path) -> None:
    opened = []

    @contextmanager
    def fresh() -> Iterator[OnnxRuntime]:
        opened.append(1)
        yield OnnxRuntime()

    assert compare_with_itself(linear_file, runs=2, policy=POLICY, fresh=fresh)["runs"] == 2
    assert opened == [1]


def test_no_runs_are_refused(linear_file: Path) -> None:
    with pytest.raises(UserError, match="--runs must be at least 1, but got 0"):
        compare_with_itself(linear_file, runs=0)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ModelError, match=r"no model file 'none\.onnx'"):
        compare_with_itself("none.onnx")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded by ONNX Runtime"):
        compare_with_itself(tmp_path / "a.onnx", runs=1, policy=POLICY)


def test_a_process_that_says_nothing_is_told(linear_file: Path) -> None:
    class Silent:
        url = "silent"

        def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
            return ""

    with pytest.raises(TargetError, match="on silent gave no answer"):
        compare_with_itself(linear_file, transport=Silent())
