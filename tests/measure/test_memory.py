"""Peak memory of a model's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autocompress.core.errors import CandidateError, ModelError, TargetError, UserError
from autocompress.core.measurement import Provenance
from autocompress.measure.memory import memory_measurement, peak_bytes, peak_memory, resident_bytes

#: A process that took less with the model than before it.
SMALLER = {"peak_bytes": 4096, "baseline_bytes": 8192, "baseline": "resident memory"}


@pytest.fixture
def wide_file(linear_model: Callable[..., bytes], tmp_path: Path) -> Path:
    """Sixteen million bytes of weights."""
    path = tmp_path / "wide.onnx"
    path.write_bytes(linear_model(weight=np.ones((4, 1_000_000), np.float32)))
    return path


def test_a_models_weights_are_in_its_peak(linear_file: Path, wide_file: Path) -> None:
    small, wide = peak_memory(linear_file, repeats=2), peak_memory(wide_file, repeats=2)
    assert 16e6 < wide.value - small.value < 80e6
    assert (wide.metric, wide.unit, wide.provenance) == ("peak_memory_bytes", "bytes", Provenance.MEASURED)
    assert len(wide.samples) == 2 and wide.interval is not None
    assert wide.interval.low <= wide.value <= wide.interval.high
    assert wide.runtime.startswith("onnxruntime ") and wide.details["threads"] == 1


def test_the_process_without_a_model_is_subtracted(linear_file: Path) -> None:
    found = peak_memory(linear_file, repeats=1)
    # Python with ONNX Runtime takes more than 30 MB, and a model of 12 numbers next to nothing.
    assert found.details["baseline_bytes"] > 30e6
    assert found.value < 20e6


def test_the_given_sample_is_run(linear_file: Path) -> None:
    with pytest.raises(CandidateError, match="x"):
        peak_memory(linear_file, repeats=1, sample=(np.ones((1, 5), np.float32),))


def test_a_file_that_is_no_model_fails(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(CandidateError, match="cannot be loaded"):
        peak_memory(tmp_path / "a.onnx", repeats=1)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ModelError, match=r"no model file 'none\.onnx'"):
        peak_memory("none.onnx")


def test_no_repeats_are_refused(linear_file: Path) -> None:
    with pytest.raises(UserError, match="`repeats` must be at least 1, but got 0"):
        peak_memory(linear_file, repeats=0)


def test_a_process_that_says_nothing_is_told(linear_file: Path) -> None:
    class Silent:
        url = "silent"

        def run_module(self, module: str, request: str, *, timeout_seconds: float) -> str:
            return ""

    with pytest.raises(TargetError, match="on silent gave no answer"):
        peak_memory(linear_file, transport=Silent())


def test_a_peak_below_its_baseline_counts_as_nothing() -> None:
    assert memory_measurement([SMALLER], target="local", about={}).value == 0.0


def test_this_process_knows_its_memory() -> None:
    resident, peak = resident_bytes(), peak_bytes()
    assert resident is not None and peak is not None and 1e6 < resident <= peak
