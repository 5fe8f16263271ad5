"""Provenance cannot be faked."""

import json

import pytest

from autocompress.core.measurement import Interval, Measurement, PairedTiming, Provenance


def test_measured_needs_samples() -> None:
    with pytest.raises(ValueError, match="raw samples"):
        Measurement(metric="latency_ms", value=1.0, unit="ms", provenance=Provenance.MEASURED)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Measurement(metric="accuracy", value=float("nan"), unit="1", provenance=Provenance.ESTIMATED)


def test_an_interval_has_its_ends_in_order() -> None:
    with pytest.raises(ValueError, match="in order"):
        Interval(low=2.0, high=1.0)


def test_json_round_trip() -> None:
    measurement = Measurement(
        metric="latency_ms",
        value=1.5,
        unit="ms",
        provenance=Provenance.MEASURED,
        interval=Interval(low=1.4, high=1.6),
        samples=(1.4, 1.6),
        reference_samples=(2.0, 2.1),
        details={"threads": 1},
    )
    assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement


def test_a_paired_timing_counts_calm_rounds_only() -> None:
    timing = PairedTiming(
        candidate_ms=(1.0, 5.0),
        reference_ms=(2.0, 9.0),
        kept=(True, False),
        ratio=0.5,
        ratio_interval=Interval(low=0.5, high=0.5),
    )
    assert (timing.kept_candidate_ms, timing.kept_share) == ((1.0,), 0.5)


def test_a_paired_timing_without_calm_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PairedTiming(
            candidate_ms=(1.0,),
            reference_ms=(1.0,),
            kept=(False,),
            ratio=1.0,
            ratio_interval=Interval(low=1.0, high=1.0),
        )
