"""What is fast on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.measurement import Interval
from autocompress.measure.cache import JsonCache
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.probe import (
    CHANNELS,
    ProbeResult,
    Reading,
    cache_key,
    probe_int8,
    recommended_multiple,
)


def reading(ratio: float, half_width: float = 0.02, *, calm: bool = True) -> Reading:
    return Reading(
        ratio=ratio,
        interval=Interval(low=ratio - half_width, high=ratio + half_width),
        samples=(ratio, ratio),
        reference_samples=(1.0, 1.0),
        calm=calm,
    )


def result(**changes: Any) -> ProbeResult:
    made = ProbeResult(
        uint8=reading(0.5),
        int8=reading(1.4),
        fp16=reading(3.0),
        channel_ms={"fp32": dict.fromkeys(CHANNELS, 1.0), "int8": {8: 0.5, 12: 0.75, 16: 1.0}},
        threads=1,
        version="1.31.0",
        fingerprint="abacus #1",
        when="2026-11-24T15:00:00+00:00",
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbeResult, Path]:
    """A real probe with the folder of its cache."""
    folder = tmp_path_factory.mktemp("probe")
    return probe_int8(cache=folder), folder


def test_it_says_which_activation_type_is_faster_with_the_evidence(measured: tuple[ProbeResult, Path]) -> None:
    found, _ = measured
    readings = {"uint8": found.uint8, "int8": found.int8, "fp16": found.fp16}
    for one in readings.values():
        assert len(one.samples) == len(one.reference_samples) >= 1
        assert 0 < one.interval.low <= one.ratio <= one.interval.high
    clearly = found.int8.interval.high < found.uint8.interval.low
    assert found.activation_type == ("int8" if clearly else "uint8")
    assert found.int8_ratio == readings[found.activation_type].ratio


def test_it_knows_the_latency_of_every_width(measured: tuple[ProbeResult, Path]) -> None:
    found, _ = measured
    assert set(found.channel_ms) == {"fp32", "int8"}
    for times in found.channel_ms.values():
        assert tuple(times) == CHANNELS
        assert min(times.values()) > 0
    assert set(found.channel_multiple.values()) <= {1, 4, 8, 16}


def test_it_says_where_it_was_measured(measured: tuple[ProbeResult, Path]) -> None:
    found, _ = measured
    about = OnnxRuntime().describe()
    assert (found.version, found.fingerprint, found.threads) == (about["version"], about["fingerprint"], 1)


def test_only_a_calm_result_is_kept(measured: tuple[ProbeResult, Path]) -> None:
    found, folder = measured
    assert bool(list(folder.glob("probe-*.json"))) == found.calm


def test_a_result_in_the_cache_is_not_measured_again(tmp_path: Path) -> None:
    known = result()
    JsonCache("probe", tmp_path).write(cache_key(OnnxRuntime(threads=1).describe()), known.to_dict())
    assert probe_int8(cache=tmp_path) == known


def test_another_number_of_threads_or_version_has_an_entry_of_its_own() -> None:
    about = dict(OnnxRuntime(threads=1).describe())
    keys = [about, {**about, "threads": 2}, {**about, "version": "0.1"}, {**about, "fingerprint": "abacus"}]
    assert len({json.dumps(cache_key(key), sort_keys=True) for key in keys}) == 4


@pytest.mark.parametrize(
    "damage", [{"readings": {}}, {"readings": None}, {"channel_ms": [1]}, {"channel_ms": {"a": 1}}]
)
def test_an_entry_of_another_form_is_noticed(damage: dict[str, Any]) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        ProbeResult.from_dict({**result().to_dict(), **damage})


def test_a_damaged_entry_is_measured_again(tmp_path: Path) -> None:
    JsonCache("probe", tmp_path).write(cache_key(OnnxRuntime(threads=1).describe()), {"readings": {}})
    assert probe_int8(cache=tmp_path).fingerprint != "abacus #1"


def test_refresh_measures_again(tmp_path: Path) -> None:
    JsonCache("probe", tmp_path).write(cache_key(OnnxRuntime(threads=1).describe()), result().to_dict())
    assert probe_int8(refresh=True, cache=tmp_path).fingerprint != "abacus #1"


@pytest.mark.parametrize(
    ("uint8", "int8", "faster", "ratio"), [(0.5, 1.4, "uint8", 0.5), (0.6, 0.4, "int8", 0.4), (0.5, 0.48, "uint8", 0.5)]
)
def test_int8_must_be_clearly_faster_to_be_chosen(uint8: float, int8: float, faster: str, ratio: float) -> None:
    found = result(uint8=reading(uint8), int8=reading(int8))
    assert (found.activation_type, found.int8_ratio) == (faster, ratio)


def test_one_noisy_reading_makes_the_result_noisy() -> None:
    assert result().calm
    for name in ("uint8", "int8", "fp16"):
        assert not result(**{name: reading(0.5, calm=False)}).calm


def test_a_result_survives_json() -> None:
    found = result()
    assert ProbeResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_derived_figures_are_in_the_dictionary_for_other_readers() -> None:
    data = result().to_dict()
    assert (data["activation_type"], data["int8_ratio"], data["fp16_ratio"], data["calm"]) == ("uint8", 0.5, 3.0, True)
    assert data["channel_multiple"] == {"fp32": 16, "int8": 1}


@pytest.mark.parametrize(("step", "widths"), [(4, range(5, 33)), (8, CHANNELS), (16, CHANNELS)])
def test_widths_that_cost_as_much_as_the_next_multiple_are_wasted(step: int, widths: Sequence[int]) -> None:
    assert recommended_multiple({c: float(-(-c // step)) for c in widths}) == step


def test_where_every_channel_pays_no_multiple_is_recommended() -> None:
    assert recommended_multiple({c: float(c) for c in CHANNELS}) == 1
