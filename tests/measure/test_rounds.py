"""The statistics of the timing protocol, and that old interpreters can read it."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.measure import rounds
from autocompress.measure.rounds import compare, correlated_interval, median_interval

POLICY = {
    "block_ms": 40.0,
    "half_width": 0.01,
    "max_seconds": 20.0,
    "min_blocks": 6,
    "calm_tolerance": 0.1,
    "warmup_seconds": 0.1,
    "confidence": 0.95,
    "patience": 1.0,
    "calm_ms": None,
    "shortest_block_ms": None,
}


def test_python_3_6_can_read_the_file():
    ast.parse(Path(rounds.__file__).read_text(), feature_version=(3, 6))


def test_the_file_needs_the_standard_library_alone():
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(Path(rounds.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= {"bisect", "gc", "math", "os", "time", "contextlib", "typing", "resource"}


@pytest.mark.parametrize(
    ("count", "confidence", "low"),
    [(6, 1 - 2 * 1 / 2**6, 1), (9, 1 - 2 * (1 + 9) / 2**9, 2), (15, 1 - 2 * (1 + 15 + 105 + 455) / 2**15, 4)],
)
def test_ends_are_the_order_statistics_of_the_binomial_law(count: int, confidence: float, low: int):
    ends = median_interval(range(1, count + 1), confidence)
    assert ends == pytest.approx((low, count + 1 - low))


def test_between_two_ranks_ends_are_interpolated():
    exact = [1 - 2 * (1 + 20) / 2**20, 1 - 2 * (1 + 20 + 190) / 2**20]
    low, high = median_interval(range(1, 21), sum(exact) / 2)
    assert 2 < low < 3
    assert low + high == pytest.approx(21)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.sampled_from([0.9, 0.95, 0.975]))
def test_the_interval_holds_the_median(values: list[float], confidence: float):
    for low, high in (median_interval(values, confidence), correlated_interval(values, confidence)):
        assert low - 1e-12 <= np.median(values) <= high + 1e-12


def test_its_coverage_is_what_it_says_for_skewed_values():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        low, high = median_interval(rng.lognormal(0.0, 1.0, 17))
        hits += low <= 1.0 <= high
    assert 0.935 <= hits / 1500 <= 0.965


def test_blocks_that_resemble_their_neighbours_widen_it():
    rng = np.random.default_rng(0)
    alone, alike = [], []
    for _ in range(200):
        values = rng.standard_normal(40)
        walk = [values[0]]
        for value in values[1:]:
            walk.append(0.6 * walk[-1] + 0.8 * value)
        alone.append(np.ptp(correlated_interval(values)) / np.ptp(median_interval(values)))
        alike.append(np.ptp(correlated_interval(walk)) / np.ptp(median_interval(walk)))
    assert np.median(alone) < 1.1
    assert np.median(alike) > 1.5


def test_the_result_is_json(simulated_clock):
    clock = simulated_clock(noise=0.01)
    found = compare(clock.model(1.0), clock.model(2.0), POLICY, clock=clock)
    assert json.loads(json.dumps(found)) == found


def test_percentiles_and_throughput_are_of_single_calls(simulated_clock):
    clock = simulated_clock()
    details = compare(clock.model(1.0), clock.model(4.0), POLICY, clock=clock)["details"]
    assert details["candidate_calls_ms"]["p99"] == pytest.approx(1.0)
    assert details["candidate_inferences_per_second"] == pytest.approx(1000.0)
    assert details["reference_inferences_per_second"] == pytest.approx(250.0)


def test_a_slight_slowdown_that_hits_the_candidate_hard_is_noticed_by_the_reference(simulated_clock):
    # A neighbour slows the reference by 6% and the candidate by 30%: within a fixed tolerance of 10%.
    clock = simulated_clock(lambda seconds: 1.3 if seconds % 2.0 < 1.0 else 1.0, noise=0.01)
    policy = {**POLICY, "half_width": 0.0, "max_seconds": 10.0}
    found = compare(clock.model(1.0), clock.model(2.0, sensitivity=0.2), policy, clock=clock)
    assert found["ratio"] == pytest.approx(0.5, rel=0.01)
    assert found["details"]["calm_tolerance"] < 0.05


def test_choosing_calm_blocks_does_not_lean_to_slow_candidates(simulated_clock):
    logs = []
    for seed in range(40):
        clock = simulated_clock(noise=0.03, seed=seed)
        policy = {**POLICY, "half_width": 0.0, "max_seconds": 4.0}
        logs.append(math.log(compare(clock.model(1.0), clock.model(1.0), policy, clock=clock)["ratio"]))
    assert abs(np.mean(logs)) < 0.001


def test_each_block_is_announced(simulated_clock):
    clock, seen = simulated_clock(), []
    found = compare(clock.model(1.0), clock.model(1.0), POLICY, clock=clock, on_round=seen.append)
    assert seen == list(range(1, len(found["kept"]) + 1))


def _spells(seconds: float) -> float:
    """A neighbour that leaves the machine alone for 20 ms of every 130."""
    return 1.0 if seconds % 0.13 < 0.02 else 1.4


def test_calm_spells_shorter_than_a_block_are_found_by_shorter_turns(simulated_clock):
    policy = {**POLICY, "block_ms": 80.0, "max_seconds": 2.0, "patience": 5.0, "calm_ms": 0.5, "shortest_block_ms": 8.0}
    clock = simulated_clock(_spells, noise=0.005)
    found = compare(clock.model(0.2, sensitivity=2.0), clock.model(0.5), policy, clock=clock)
    assert found["details"]["calm"]
    assert found["ratio"] == pytest.approx(0.4, rel=0.01)
    assert found["details"]["calls_a_turn"]["reference"] < 10
    # Turns stay as long as they are where most blocks are calm.
    clock = simulated_clock(noise=0.005)
    found = compare(clock.model(0.2), clock.model(0.5), policy, clock=clock)
    assert found["details"]["calls_a_turn"]["reference"] == 40


@pytest.mark.parametrize(("patience", "calm"), [(1.0, False), (4.0, True)])
def test_a_comparison_waits_for_calm_as_long_as_its_patience(simulated_clock, patience: float, calm: bool):
    clock = simulated_clock(lambda seconds: 1.4 if seconds < 2.0 else 1.0, noise=0.005)
    policy = {**POLICY, "max_seconds": 1.0, "patience": patience, "calm_ms": 2.0}
    found = compare(clock.model(1.0, sensitivity=2.0), clock.model(2.0), policy, clock=clock)
    assert found["details"]["calm"] is calm
    assert (found["ratio"] == pytest.approx(0.5, rel=0.01)) is calm
    assert found["details"]["seconds"] < 1.0 * patience + 0.3
