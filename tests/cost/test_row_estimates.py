"""Estimates beside published latencies."""

import pytest

from autocompress.cost.row_estimates import estimate_row, scores
from autocompress.hardware.calibrations import calibrations
from autocompress.hardware.reference import ReferenceRow, reference_rows


def row(**values: object) -> ReferenceRow:
    given = {
        "target": "raspberry-pi-4b",
        "runtime": "ncnn-cpu",
        "threads": 4,
        "model": "resnet18",
        "precision": "fp32",
        "batch": 1,
        "input_px": 224,
        "latency_ms": 100.0,
    }
    return ReferenceRow(**{**given, **values})  # type: ignore[arg-type]


def test_a_known_model_is_estimated_by_a_fit_that_never_saw_it() -> None:
    found = estimate_row(row())
    assert found.held_out
    assert found.estimate_ms is not None
    assert found.estimate_ms == pytest.approx(100, rel=1.0)


def test_a_runtime_without_rows_gets_the_plain_roofline() -> None:
    found = estimate_row(row(runtime="onnxruntime"))
    assert (found.estimator, found.held_out) == ("roofline", False)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": "no-such-net"}, "operations of 'no-such-net'"),
        ({"batch": 8}, "only batch 1"),
        ({"target": "no-board"}, "no-board"),
        ({"runtime": "no-runtime"}, "no-runtime"),
        ({"runtime": "onnxruntime", "precision": "fp16"}, "refuses fp16"),
    ],
)
def test_a_row_without_an_estimate_says_why(values: dict[str, object], reason: str) -> None:
    found = estimate_row(row(**values))
    assert found.estimate_ms is None
    assert reason in found.reason


def test_shipped_rows_repeat_the_shipped_errors() -> None:
    fit = next(c for c in calibrations() if (c.target, c.runtime, c.threads) == ("raspberry-pi-3b-plus", "ncnn", 4))
    rows = [r for r in reference_rows() if r.group == (fit.target, fit.runtime, fit.threads, fit.precision)]
    found = scores([estimate_row(r) for r in rows])[rows[0].group]
    assert found.n == fit.models
    assert found.median_error == pytest.approx(fit.median_error, abs=1e-3)
