"""Model files timed in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import ModelError, TargetError, UnknownNameError, UserError
from autocompress.core.measurement import Provenance, TimingPolicy
from autocompress.measure import fresh_process
from autocompress.measure.fresh_process import FileTiming, measure_against, measure_files
from autocompress.measure.latency import reference_level_ms
from autocompress.measure.store import MeasurementStore

POLICY = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.3, min_blocks=4, warmup_seconds=0.02)


class InProcess:
    """Answers requests in this process and keeps them: everything but the fresh process itself."""

    url = "in-process"

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.timeouts: list[float] = []

    def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
        assert module == fresh_process.__name__
        self.requests.append(json.loads(request))
        self.timeouts.append(timeout_seconds)
        return "a library's greeting\n" + json.dumps(fresh_process.answer(json.loads(request))) + "\n"


class Busy(InProcess):
    """The same on a machine whose neighbours slow the reference down to these levels."""

    def __init__(self, *levels_ms: float, calm: bool = True) -> None:
        super().__init__()
        self._levels, self._calm = list(levels_ms), calm

    def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
        answer = json.loads(super().run_module(module, request, timeout_seconds=timeout_seconds).splitlines()[-1])
        level = self._levels.pop(0)
        answer["reference_samples"] = [level] * len(answer["reference_samples"])
        answer["details"] = {**answer["details"], "calm": self._calm, "steady": True, "calm_level_ms": level}
        return json.dumps(answer)


class Silent:
    """Says nothing."""

    url = "silent"

    def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
        return ""


@pytest.fixture
def transport() -> InProcess:
    return InProcess()


@pytest.fixture
def wide_file(linear_model: Callable[..., bytes], tmp_path: Path) -> Path:
    """Another linear model: from four inputs to a thousand outputs."""
    path = tmp_path / "wide.onnx"
    path.write_bytes(linear_model(weight=np.ones((4, 1000), np.float32)))
    return path


def test_files_are_timed_in_fresh_processes(linear_file: Path, wide_file: Path) -> None:
    reference, wide = measure_files([linear_file, str(wide_file)], policy=POLICY)
    assert (reference.path, wide.path) == (str(linear_file), str(wide_file))
    assert wide.size_bytes == wide_file.stat().st_size
    assert wide.details["fresh_process"] and wide.details["threads"] == 1
    assert wide.runtime.startswith("onnxruntime ")
    assert len(wide.samples) == len(wide.reference_samples) == len(wide.kept) >= 1
    # This machine may be busy: a factor of two is more than a neighbour makes between two equal models.
    assert reference.ratio_interval.low < 2 and reference.ratio_interval.high > 0.5


def test_a_file_against_itself_shows_the_noise(linear_file: Path, transport: InProcess) -> None:
    (found,) = measure_files([linear_file], policy=POLICY, transport=transport)
    assert 0.5 < found.ratio < 2
    assert found.ratio_interval.low <= found.ratio <= found.ratio_interval.high
    assert found.interval.low <= found.median_ms <= found.interval.high
    assert found.provenance is Provenance.MEASURED


def test_each_file_is_a_request_of_its_own_against_the_first(
    linear_file: Path, wide_file: Path, transport: InProcess
) -> None:
    measure_files([linear_file, wide_file], policy=POLICY, threads=2, spinning=False, transport=transport)
    assert [Path(r["candidate"]).name for r in transport.requests[:2]] == ["linear.onnx", "wide.onnx"]
    assert {Path(r["reference"]).name for r in transport.requests} == {"linear.onnx"}
    assert all(r["threads"] == 2 and r["spinning"] is False for r in transport.requests)
    assert all(limit > POLICY.max_seconds for limit in transport.timeouts)


def test_what_a_later_file_shows_to_have_been_disturbed_is_timed_again(linear_file: Path, wide_file: Path) -> None:
    transport = Busy(1.3, 1.0, 1.02)
    reference, wide = measure_files([linear_file, wide_file], policy=POLICY, transport=transport)
    assert [Path(r["candidate"]).name for r in transport.requests] == ["linear.onnx", "wide.onnx", "linear.onnx"]
    assert [r["policy"]["calm_ms"] for r in transport.requests] == [None, 1.3, 1.0]
    assert [found.details["calm_level_ms"] for found in (reference, wide)] == [1.02, 1.0]
    assert reference.details["calm"] and wide.details["calm"]


def test_what_was_disturbed_is_not_kept(linear_file: Path, wide_file: Path, tmp_path: Path) -> None:
    store = MeasurementStore(tmp_path / "measurements.db")
    files = [linear_file, wide_file]
    transport = Busy(1.3, 1.0, 1.2)
    reference, _ = measure_files(files, policy=POLICY, transport=transport, store=store)
    assert len(transport.requests) == 3
    assert not reference.details["calm"]
    transport = Busy(1.01)
    reference, wide = measure_files(files, policy=POLICY, transport=transport, store=store)
    assert len(transport.requests) == 1
    assert reference.details["calm"] and "cached" not in reference.details
    assert "cached" in wide.details
    assert all("cached" in found.details for found in measure_files(files, policy=POLICY, store=store))


def test_what_stays_disturbed_is_said_to_be(linear_file: Path, wide_file: Path) -> None:
    reference, wide = measure_files([linear_file, wide_file], policy=POLICY, transport=Busy(1.3, 1.0, 1.2))
    assert (reference.details["calm"], reference.details["calm_level_ms"]) == (False, 1.2)
    assert wide.details["calm"]
    found = measure_files([linear_file], policy=POLICY, transport=Busy(1.3, 1.2, calm=False))
    assert (found[0].details["calm"], found[0].details["calm_level_ms"]) == (False, 1.2)


def test_the_first_sample_given_is_what_is_timed(linear_file: Path, transport: InProcess) -> None:
    sample = np.arange(8, dtype=np.float32).reshape(2, 4)
    (found,) = measure_files([linear_file], policy=POLICY, sample=(sample,), transport=transport)
    assert transport.requests[0]["sample"] == [{"dtype": "<f4", "shape": [1, 4], "values": [0.0, 1.0, 2.0, 3.0]}]
    assert found.details["sample_shapes"] == [[1, 4]]


def test_a_timing_survives_json(linear_file: Path, transport: InProcess) -> None:
    (found,) = measure_files([linear_file], policy=POLICY, transport=transport)
    assert FileTiming.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_it_holds_the_comparison_itself(linear_file: Path, transport: InProcess) -> None:
    (found,) = measure_files([linear_file], policy=POLICY, transport=transport)
    paired = found.paired
    assert (paired.ratio, paired.candidate_ms, paired.kept) == (found.ratio, found.samples, found.kept)
    assert reference_level_ms(paired) > 0


def test_the_reference_need_not_be_timed_against_itself(linear_file: Path, wide_file: Path) -> None:
    (found,) = measure_against([wide_file], linear_file, policy=POLICY)
    assert found.path == str(wide_file)
    assert found.ratio > 0
    assert found.details["policy"]["max_seconds"] == POLICY.max_seconds


def test_a_sample_that_does_not_fit_names_the_file(linear_file: Path, transport: InProcess) -> None:
    with pytest.raises(ModelError, match=r"linear.onnx': The model wants 'x' \(n, 4\) float32, but got .* \(1, 5\)"):
        measure_files([linear_file], policy=POLICY, sample=(np.zeros((1, 5), np.float32),), transport=transport)


def test_a_damaged_file_is_named(linear_file: Path, tmp_path: Path, transport: InProcess) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(linear_file.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"damaged.onnx': .*cannot be loaded by ONNX Runtime"):
        measure_files([linear_file, damaged], policy=POLICY, transport=transport)


def test_a_missing_file_is_found_out_before_anything_is_timed(
    linear_file: Path, tmp_path: Path, transport: InProcess
) -> None:
    with pytest.raises(ModelError, match=r"There is no model file '.*gone.onnx'"):
        measure_files([linear_file, tmp_path / "gone.onnx"], policy=POLICY, transport=transport)
    assert transport.requests == []


def test_no_files_are_refused() -> None:
    with pytest.raises(UserError, match="nothing to measure"):
        measure_files([])


def test_an_unknown_runtime_names_the_nearest(linear_file: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        measure_files([linear_file], runtime="onnx-runtime")


def test_a_process_that_says_nothing_is_reported(linear_file: Path) -> None:
    with pytest.raises(TargetError, match=r"on silent gave no answer for .*linear.onnx"):
        measure_files([linear_file], policy=POLICY, transport=Silent())
