"""Timings that are taken from the cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.core.measurement import TimingPolicy
from autocompress.measure.fresh_process import measure_files
from autocompress.measure.kept_timings import about_here, keep_timing, kept_timing, latency_key
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.store import MeasurementStore

POLICY = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.3, min_blocks=4, warmup_seconds=0.02)


@pytest.fixture
def store(tmp_path: Path) -> MeasurementStore:
    return MeasurementStore(tmp_path / "cache")


@pytest.fixture
def filled(store: MeasurementStore, linear_file: Path) -> MeasurementStore:
    """A store with one calm timing of the linear model against itself."""
    (timing,) = measure_files([linear_file], policy=POLICY)
    calm = replace(timing, when="2026-01-02T03:04:05+00:00", details={**timing.details, "calm": True})
    about = about_here(threads=1, spinning=True)
    keep_timing(store, latency_key(linear_file, linear_file, about=about, policy=POLICY, sample=None), calm)
    return store


def test_a_hit_says_when_it_was_measured(filled: MeasurementStore, linear_file: Path) -> None:
    (found,) = measure_files([linear_file], policy=POLICY, store=filled)
    assert found.details["cached"] == found.when == "2026-01-02T03:04:05+00:00"
    assert found.path == str(linear_file)


def test_the_same_bytes_under_another_name_hit(filled: MeasurementStore, linear_file: Path) -> None:
    other = linear_file.with_name("other.onnx")
    other.write_bytes(linear_file.read_bytes())
    (found,) = measure_files([other], policy=POLICY, store=filled)
    assert found.details["cached"] and found.path == str(other)


def test_without_a_store_it_is_measured(filled: MeasurementStore, linear_file: Path) -> None:
    (found,) = measure_files([linear_file], policy=POLICY)
    assert "cached" not in found.details


def test_other_bytes_threads_policy_sample_or_cores_miss(
    filled: MeasurementStore, linear_file: Path, linear_model: Callable[..., bytes]
) -> None:
    other = linear_file.with_name("other.onnx")
    other.write_bytes(linear_model(weight=np.ones((4, 3), np.float32)))
    sample = (np.ones((1, 4), np.float32),)
    core = [min(os.sched_getaffinity(0))]
    missed = [
        measure_files([other], policy=POLICY, store=filled),
        measure_files([linear_file], policy=POLICY, threads=2, store=filled),
        measure_files([linear_file], policy=replace(POLICY, min_blocks=5), store=filled),
        measure_files([linear_file], policy=POLICY, sample=sample, store=filled),
        measure_files([linear_file], policy=POLICY, affinity=core, store=filled),
    ]
    assert ["cached" in timing.details for (timing,) in missed] == [False] * 5
    assert missed[-1][0].details["affinity"] == core


@pytest.mark.parametrize("part", ["version", "build", "kernel", "microcode", "fingerprint", "spinning"])
def test_a_changed_runtime_or_driver_misses(filled: MeasurementStore, linear_file: Path, part: str) -> None:
    about = about_here(threads=1, spinning=True)
    key = latency_key(linear_file, linear_file, about={**about, part: "other"}, policy=POLICY, sample=None)
    assert kept_timing(filled, key, "m.onnx") is None


def test_a_device_keeps_its_timings_too(store: MeasurementStore, linear_file: Path) -> None:
    @contextmanager
    def fresh() -> Iterator[OnnxRuntime]:
        yield OnnxRuntime()

    found = [measure_files([linear_file], policy=POLICY, fresh=fresh, store=store)[0] for _ in range(2)]
    assert ("cached" in found[1].details) == found[0].details["calm"]


def test_what_a_busy_machine_gave_is_not_kept(filled: MeasurementStore, linear_file: Path) -> None:
    (timing,) = measure_files([linear_file], policy=POLICY, store=filled)
    keep_timing(filled, {"other": 1}, replace(timing, details={**timing.details, "calm": False}))
    assert filled.read({"other": 1}) is None


def test_an_entry_that_is_no_timing_misses(store: MeasurementStore) -> None:
    store.write({"a": 1}, {"path": "m.onnx", "interval": []})
    assert kept_timing(store, {"a": 1}, "m.onnx") is None
