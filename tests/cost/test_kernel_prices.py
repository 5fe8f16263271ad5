"""Prices of kernels on a made-up device whose true prices are known."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from autocompress.core.kernel import Kernel
from autocompress.cost.kernel_prices import KernelPrices, WholeTiming

OVERHEAD = {"Conv": 4.0, "Add": 2.5}


def conv(out: int, into: int, pixels: int = 16) -> Kernel:
    return Kernel(
        op_type="Conv",
        inputs=(("float", (1, into, pixels, pixels)), ("float", (out, into, 3, 3)), ("float", (out,))),
        outputs=(("float", (1, out, pixels, pixels)),),
        weight=(out, into, 3, 3),
    )


def add(channels: int) -> Kernel:
    shape = (1, channels, 16, 16)
    return Kernel(op_type="Add", inputs=(("float", shape), ("float", shape)), outputs=(("float", shape),))


def truth(kernel: Kernel) -> float:
    """Microseconds; widths are padded to vectors of 16."""
    macs, _, read, written = kernel.work
    out = kernel.weight[0] if kernel.weight else 1
    return 1.0 + macs * (-(-out // 16) * 16 / out) / 50_000 + (read + written) / 10_000


WIDTHS = (16, 32, 48, 64)


def made_up(rng: np.random.Generator, plans: int = 30) -> tuple[dict[str, list[float]], list[WholeTiming]]:
    profiled: dict[str, list[float]] = {}
    timings = []
    for _ in range(plans):
        widths = [int(width) for width in rng.choice(WIDTHS, 7)]
        if rng.random() < 0.2:
            widths = [int(width) for width in rng.integers(16, 65, 7)]
        kernels = [conv(b, a) for a, b in pairwise(widths)] + [add(w) for w in widths] * int(rng.integers(0, 4))
        for kernel in kernels:
            seen = truth(kernel) + OVERHEAD[kernel.op_type] + rng.normal(0, 0.1)
            profiled.setdefault(kernel.key, []).append(seen)
        ms = sum(truth(kernel) for kernel in kernels) * 1e-3 * (1 + rng.normal(0, 0.005))
        timings.append(WholeTiming(kernels=Counter(k.key for k in kernels), ms=ms, spread=0.01, model="net"))
    return profiled, timings


def worst(prices: KernelPrices, kernels: Sequence[Kernel]) -> float:
    real = np.array([truth(kernel) for kernel in kernels])
    return float(np.max(np.abs(prices.microseconds(kernels) / real - 1)))


def test_overheads_of_the_profiler_are_taken_off() -> None:
    prices = KernelPrices(*made_up(np.random.default_rng(0)))
    assert prices.overheads == pytest.approx(OVERHEAD, abs=1.0)
    assert worst(prices, [conv(a, b) for a in WIDTHS for b in WIDTHS]) < 0.06


def test_widths_between_are_interpolated_with_their_padding() -> None:
    prices = KernelPrices(*made_up(np.random.default_rng(0)))
    between = [conv(24, 40), conv(40, 24), conv(56, 20)]
    assert not any(prices.known(kernel) for kernel in between)
    assert worst(prices, between) < 0.1


def test_one_disturbed_timing_does_no_harm() -> None:
    profiled, timings = made_up(np.random.default_rng(0))
    bad = WholeTiming(kernels=timings[0].kernels, ms=3 * timings[0].ms, spread=0.01, model="net")
    assert worst(KernelPrices(profiled, [bad, *timings[1:]]), [conv(a, b) for a in WIDTHS for b in WIDTHS]) < 0.08


def test_without_whole_timings_the_expected_overhead_is_taken_off() -> None:
    kernel = add(16)
    # The profiler adds 3; neighbours of the machine only ever add, so the lower readings count.
    prices = KernelPrices({kernel.key: [5.0, 5.2, 5.2, 5.3, 9.0, 9.5]}, [])
    assert prices.microseconds([kernel])[0] == pytest.approx(2.2, rel=0.02)


def test_a_family_that_was_never_timed_is_not_known() -> None:
    prices = KernelPrices(*made_up(np.random.default_rng(0), 3))
    assert prices.knows(conv(17, 5))
    assert not prices.knows(Kernel(op_type="Erf", inputs=(("float", (1, 4)),), outputs=(("float", (1, 4)),)))
