from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.measurement import TimingPolicy
from autocompress.measure.timing import compare, median_interval

POLICY = TimingPolicy(block_ms=80.0, half_width=0.005, max_seconds=20.0, min_blocks=6, warmup_seconds=0.1)


def test_the_ratio_is_exact_without_noise(simulated_clock):
    clock = simulated_clock()
    timing = compare(clock.model(1.0), clock.model(4.0), POLICY, clock=clock)
    assert timing.ratio == pytest.approx(0.25)
    assert timing.ratio_interval.half_width == pytest.approx(0.0, abs=1e-9)


def test_a_machine_that_slows_steadily_leaves_the_ratio_alone(simulated_clock):
    clock = simulated_clock(lambda seconds: 1.0 + 0.05 * seconds, noise=0.01)
    timing = compare(clock.model(1.0), clock.model(2.0), replace(POLICY, half_width=0.0, max_seconds=4.0), clock=clock)
    assert timing.ratio == pytest.approx(0.5, rel=0.002)


def test_rounds_in_a_busy_spell_are_dropped(simulated_clock):
    clock = simulated_clock(lambda seconds: 1.5 if seconds % 1.0 < 0.4 else 1.0, noise=0.01)
    candidate, reference = clock.model(1.0, sensitivity=1.6), clock.model(2.0, sensitivity=0.4)
    timing = compare(candidate, reference, replace(POLICY, half_width=0.0, max_seconds=10.0), clock=clock)
    assert timing.ratio == pytest.approx(0.5, rel=0.01)
    assert 0.3 < timing.kept_share < 0.7


def test_the_candidates_own_time_never_drops_a_round(simulated_clock):
    clock = simulated_clock(lambda seconds: 2.0 if seconds % 1.0 < 0.5 else 1.0)
    timing = compare(clock.model(1.0), clock.model(1.0, sensitivity=0.0), POLICY, clock=clock)
    assert timing.kept_share == 1.0


def test_a_candidate_that_jumps_while_the_reference_is_calm_is_not_called_calm(simulated_clock):
    clock = simulated_clock(lambda seconds: 2.0 if seconds % 0.3 < 0.2 else 1.0)
    timing = compare(clock.model(1.0), clock.model(1.0, sensitivity=0.0), POLICY, clock=clock)
    assert not timing.details["calm"]
    assert timing.details["stopped"] == "time"


def test_a_comparison_wholly_in_a_busy_spell_knows_it_from_the_calm_level(simulated_clock):
    clock = simulated_clock(lambda seconds: 1.5, noise=0.01)
    timing = compare(clock.model(1.0), clock.model(2.0), replace(POLICY, max_seconds=2.0, calm_ms=2.0), clock=clock)
    assert not timing.details["calm"]
    assert any(timing.kept)


def test_equal_models_differ_by_nothing(simulated_clock):
    # One interval at 95% may well miss; what must not be is a lean to one side, nor more misses because comparing stops
    # where the interval happens to be narrow.
    policy = replace(POLICY, block_ms=20.0, half_width=0.02)
    logs, hits = [], 0
    for seed in range(60):
        clock = simulated_clock(noise=0.03, seed=seed)
        timing = compare(clock.model(1.0), clock.model(1.0), policy, clock=clock)
        logs.append(np.log(timing.ratio))
        hits += timing.ratio_interval.low <= 1.0 <= timing.ratio_interval.high
    assert abs(np.mean(logs)) < 2.5 * np.std(logs) / np.sqrt(len(logs))
    assert hits / 60 > 0.9


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says(simulated_clock):
    policy = TimingPolicy(block_ms=20.0, half_width=0.0, max_seconds=0.6, min_blocks=6, warmup_seconds=0.01)
    hits = 0
    for seed in range(200):
        clock = simulated_clock(noise=0.05, seed=seed)
        found = compare(clock.model(0.5), clock.model(1.0), policy, clock=clock).ratio_interval
        # The lower quartile of ten noisy calls lies lower than that of five, by a known and tiny amount.
        hits += found.low <= 0.5 * 0.996 <= found.high
    assert hits / 200 >= 0.92


def test_it_stops_as_soon_as_the_interval_is_narrow(simulated_clock):
    clock = simulated_clock(noise=0.005)
    timing = compare(clock.model(1.0), clock.model(2.0), POLICY, clock=clock)
    assert timing.details["stopped"] == "interval"
    assert timing.ratio_interval.half_width <= POLICY.half_width * timing.ratio
    assert timing.details["seconds"] < POLICY.max_seconds


def test_it_stops_when_time_is_up(simulated_clock):
    clock = simulated_clock(noise=0.3)
    timing = compare(clock.model(1.0), clock.model(2.0), replace(POLICY, max_seconds=1.0), clock=clock)
    assert timing.details["stopped"] == "time"
    assert timing.details["seconds"] == pytest.approx(1.0, abs=0.2)


def test_a_model_slower_than_the_time_allowed_still_gets_one_round(simulated_clock):
    clock = simulated_clock()
    timing = compare(clock.model(5000.0), clock.model(4000.0), POLICY, clock=clock)
    assert len(timing.kept) == 1
    assert timing.ratio == pytest.approx(1.25)


def test_the_interval_of_few_rounds_spans_single_blocks(simulated_clock):
    clock = simulated_clock(noise=0.1)
    timing = compare(clock.model(5000.0), clock.model(5000.0), POLICY, clock=clock)
    assert timing.ratio_interval.half_width > 0.01


def test_blocks_of_a_fast_and_a_slow_model_last_alike(simulated_clock):
    clock = simulated_clock()
    timing = compare(clock.model(1.0), clock.model(50.0), POLICY, clock=clock)
    assert timing.details["calls_a_turn"] == {"candidate": 50, "reference": 1}


def test_the_same_seed_gives_the_same_interval(simulated_clock):
    timings = []
    for _ in range(2):
        clock = simulated_clock(noise=0.05, seed=7)
        timing = compare(clock.model(1.0), clock.model(1.0), POLICY, clock=clock)
        timings.append(replace(timing, details={}))
    assert timings[0] == timings[1]


def test_garbage_collection_is_off_while_blocks_run_and_on_again_after(simulated_clock):
    clock = simulated_clock()
    seen = []
    run = clock.model(30.0)

    def candidate() -> None:
        seen.append(gc.isenabled())
        run()

    compare(candidate, clock.model(30.0), POLICY, clock=clock)
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_collection_is_on_again_after_a_failure(simulated_clock):
    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        compare(broken, broken, POLICY, clock=simulated_clock())
    assert gc.isenabled()


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30))
def test_the_interval_of_a_median_holds_the_median(values):
    interval = median_interval(values)
    assert interval.low - 1e-9 <= np.median(values) <= interval.high + 1e-9
