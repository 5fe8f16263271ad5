"""From timings and files to measurements."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
import pytest

from autocompress.core.errors import ModelError
from autocompress.core.measurement import Interval, Measurement, PairedTiming, Provenance
from autocompress.measure.latency import (
    latency_measurement,
    model_file_bytes,
    reference_level_ms,
    runtime_title,
    size_measurement,
)

ABOUT = {"name": "onnxruntime", "version": "1.31.0", "provider": "cpu", "threads": 2, "spinning": True}
TIMING = PairedTiming(
    candidate_ms=(1.0, 1.1, 9.0, 0.9),
    reference_ms=(2.0, 2.2, 7.0, 1.9),
    kept=(True, True, False, True),
    ratio=0.5,
    ratio_interval=Interval(low=0.48, high=0.53),
    details={"stopped": "interval"},
)


def measured(reference_ms: float | None = 4.0) -> Measurement:
    about = {**ABOUT, "fingerprint": "abacus #1"}
    return latency_measurement(TIMING, reference_ms=reference_ms, target="local", runtime=about)


def test_the_reference_level_is_the_median_of_calm_rounds() -> None:
    assert reference_level_ms(TIMING) == 2.0


def test_latency_is_the_ratio_times_the_references_level() -> None:
    found = measured()
    assert (found.metric, found.unit, found.value) == ("latency_ms", "ms", 2.0)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((1.92, 2.12))


def test_without_a_level_that_of_the_timing_counts() -> None:
    assert measured(None).value == 1.0


def test_it_carries_its_raw_samples_and_provenance() -> None:
    found = measured()
    assert found.provenance is Provenance.MEASURED
    assert (found.samples, found.reference_samples) == (TIMING.candidate_ms, TIMING.reference_ms)
    assert (found.runtime, found.fingerprint, found.target) == ("onnxruntime 1.31.0 cpu", "abacus #1", "local")
    assert datetime.fromisoformat(found.when).tzinfo is not None


def test_details_say_what_the_reading_depends_on() -> None:
    details = measured().details
    assert details["kept"] == [True, True, False, True]
    assert (details["ratio"], details["ratio_interval"], details["reference_ms"]) == (0.5, [0.48, 0.53, 0.95], 4.0)
    assert (details["threads"], details["spinning"], details["stopped"]) == (2, True, "interval")


def test_it_survives_json() -> None:
    assert Measurement.from_dict(measured().to_dict()) == measured()


def test_the_size_of_a_file_is_its_bytes(linear_file: Path) -> None:
    found = size_measurement(linear_file)
    assert found.value == linear_file.stat().st_size == size_measurement(linear_file.read_bytes()).value
    assert (found.metric, found.unit, found.provenance) == ("size_bytes", "bytes", Provenance.MEASURED)


def test_data_files_count(linear_file: Path) -> None:
    model = onnx.load(linear_file)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    path = linear_file.parent / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = path.parent / "weights.bin"
    assert model_file_bytes(path) == path.stat().st_size + data.stat().st_size
    data.unlink()
    with pytest.raises(ModelError, match=r"keeps weights in 'weights.bin', but there is no such file"):
        model_file_bytes(path)


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no model file '.*gone.onnx'"):
        size_measurement(tmp_path / "gone.onnx")


def test_a_file_that_is_no_model_is_the_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("this is not a model")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        model_file_bytes(path)


def test_a_title_leaves_out_what_is_not_known() -> None:
    assert runtime_title({"name": "linear", "version": "1"}) == "linear 1"
    assert runtime_title({}) == ""
