"""A price list of a made-up device: what it covers, how far it is off, and that it survives being written."""

import json
from dataclasses import replace

import numpy as np
import pytest

from autocompress.core.errors import CandidateError, PlanError
from autocompress.core.kernel import Kernel
from autocompress.core.measurement import Provenance
from autocompress.cost.price_list import FEWEST_PLANS, PricedRun, PriceList, model_key
from autocompress.graph.model_graph import ModelGraph

DEVICE = {"name": "abacus", "version": "1", "threads": 1}


def add(size: int) -> Kernel:
    return Kernel(op_type="Add", inputs=(("float", (1, size)),) * 2, outputs=(("float", (1, size)),))


def runs(count: int, noise: float = 0.0, model: str = "net") -> list[PricedRun]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        kernels = [add(int(size)) for size in rng.choice((1000, 2000, 4000, 8000), 6)]
        times = np.array([1.0 + kernel.work[2] / 1000 for kernel in kernels])
        ms = float(times.sum()) * 1e-3 * (1 + noise * float(rng.choice((-1, 1))))
        seen = tuple((times + 3.0).tolist())
        keys = tuple(kernel.key for kernel in kernels)
        found.append(PricedRun(model=model, kernels=keys, microseconds=seen, ms=ms, spread=0.01))
    return found


def test_an_estimate_is_the_sum_of_its_kernels_with_a_validated_interval() -> None:
    prices = PriceList(device=DEVICE, runs=runs(20))
    found = prices.estimate([add(1000), add(4000)], "net")
    assert found.provenance is Provenance.ESTIMATED
    assert found.value == pytest.approx(12e-3, rel=0.03)
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high
    assert "validated ±" in found.fingerprint


def half_width(prices: PriceList) -> float:
    found = prices.estimate([add(1000), add(4000)], "net")
    assert found.interval is not None
    return found.interval.high / found.value - 1


def test_the_interval_follows_the_errors_of_plans_left_out() -> None:
    assert half_width(PriceList(device=DEVICE, runs=runs(40))) < 0.04
    assert half_width(PriceList(device=DEVICE, runs=runs(40, noise=0.1))) > 0.05


def test_disturbed_timings_that_say_so_do_not_widen_the_interval() -> None:
    calm = runs(40)
    rough = [replace(run, ms=run.ms * 1.3, spread=0.15) if number % 8 == 0 else run for number, run in enumerate(calm)]
    assert half_width(PriceList(device=DEVICE, runs=rough)) < 0.05


def test_a_model_needs_enough_plans_of_its_own() -> None:
    few = PriceList(device=DEVICE, runs=runs(FEWEST_PLANS - 1))
    assert not few.covers("net")
    with pytest.raises(PlanError, match="fewer than"):
        few.estimate([add(1000)], "net")
    assert few.with_runs(runs(1), {"net": 1.0}).covers("net")


def test_a_kernel_without_a_price_is_named() -> None:
    strange = Kernel(op_type="Erf", inputs=(("float", (1, 4)),), outputs=(("float", (1, 4)),))
    with pytest.raises(PlanError, match="Erf float"):
        PriceList(device=DEVICE, runs=runs(20)).estimate([strange], "net")


def test_a_kernel_of_another_type_takes_the_nearest_price_with_a_wider_interval() -> None:
    prices = PriceList(device=DEVICE, runs=runs(20))
    integer = Kernel(op_type="Add", inputs=(("uint8", (1, 4000)),) * 2, outputs=(("uint8", (1, 4000)),))
    known, borrowed = (prices.estimate([add(1000), other], "net") for other in (add(4000), integer))
    assert known.interval is not None
    assert borrowed.interval is not None
    assert borrowed.value == pytest.approx(known.value, rel=0.02)
    assert borrowed.interval.high > 1.3 * known.interval.high
    assert borrowed.details["families_borrowed"] == [integer.family]


def test_a_list_reads_back_as_it_was_written() -> None:
    prices = PriceList(device=DEVICE, runs=runs(15), base_ms={"net": 0.5})
    again = PriceList.from_dict(json.loads(json.dumps(prices.to_dict())))
    assert (again.device, again.runs, again.base_ms) == (prices.device, prices.runs, prices.base_ms)


def test_a_broken_list_is_refused() -> None:
    with pytest.raises(CandidateError, match="cannot be read"):
        PriceList.from_dict({"schema": 1, "device": {}, "kernels": [], "runs": [{"kernels": [3]}], "base_ms": {}})


def test_weights_do_not_change_which_model_it_is(graph: ModelGraph) -> None:
    other = graph.with_initializers({"fc.bias": np.ones(10, np.float32)})
    assert model_key(other) == model_key(graph)
