"""The timing protocol, and that old interpreters can read it."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from autocompress.measure import calm_blocks, machine_state, order_statistics, rounds
from autocompress.measure.rounds import compare

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


MODULES = (rounds, calm_blocks, machine_state, order_statistics)


@pytest.mark.parametrize("module", MODULES)
def test_python_3_6_can_read_the_file(module: ModuleType):
    ast.parse(Path(module.__file__ or "").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("module", MODULES)
def test_the_file_needs_the_standard_library_alone(module: ModuleType):
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    own = {other.__name__ for other in MODULES}
    assert names - own <= {"bisect", "gc", "math", "os", "time", "contextlib", "typing", "resource"}


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


def _random_spells(seed: int, seconds: float) -> Callable[[float], float]:
    """Neighbours that come and go: spells of 40 ms on average, each slower by up to a half."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.exponential(0.04, int(40 * seconds)))
    slower = 1.0 + rng.choice([0.0, 0.1, 0.3, 0.5], len(ends))
    return lambda now: float(slower[min(int(np.searchsorted(ends, now)), len(ends) - 1)])


def test_equal_models_come_out_equal_beside_neighbours_that_come_and_go(simulated_clock):
    policy = {**POLICY, "block_ms": 100.0, "half_width": 0.0, "max_seconds": 10.0}
    logs, by_reference = [], []
    for seed in range(30):
        clock = simulated_clock(_random_spells(seed, 12.0), noise=0.01, seed=seed)
        found = compare(clock.model(1.0), clock.model(1.0), policy, clock=clock)
        logs.append(math.log(found["ratio"]))
        limit = found["details"]["calm_level_ms"] * (1.0 + found["details"]["calm_tolerance"])
        pairs = zip(found["candidate_ms"], found["reference_ms"], strict=True)
        by_reference.append(np.median([math.log(a / b) for a, b in pairs if b <= limit]))
    assert abs(np.mean(logs)) < 2.5 * np.std(logs) / math.sqrt(len(logs)) < 0.01
    # Choosing by the reference alone leans.
    assert np.mean(by_reference) > max(0.004, 2 * abs(np.mean(logs)))
