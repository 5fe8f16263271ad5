"""Expectations of kernels from their family on made-up prices."""

import numpy as np
import pytest

from autocompress.core.kernel import Kernel
from autocompress.cost.kernel_trends import KernelTrends


def conv(out: int, into: int, pixels: int = 16) -> Kernel:
    image = ("float", (1, into, pixels, pixels))
    return Kernel(
        op_type="Conv",
        inputs=(image, ("float", (out, into, 3, 3))),
        outputs=(("float", (1, out, pixels, pixels)),),
        weight=(out, into, 3, 3),
    )


ADD = Kernel(op_type="Add", inputs=(("float", (1, 64)),) * 2, outputs=(("float", (1, 64)),))
KERNELS = [conv(a, b) for a in (16, 32, 48, 64) for b in (16, 32, 48, 64)]


def trends(noise: float = 0.0) -> KernelTrends:
    rng = np.random.default_rng(0)
    prices = np.array([1.0 + kernel.work[0] / 50_000 for kernel in KERNELS]) * rng.normal(1.0, noise, len(KERNELS))
    return KernelTrends([*KERNELS, ADD], np.append(prices, 1.5), np.ones(len(KERNELS) + 1))


def test_what_grows_with_arithmetic_is_expected_between_and_beyond() -> None:
    between = [conv(48, 80), conv(96, 96)]
    assert trends().expected(between) == pytest.approx([1.0 + k.work[0] / 50_000 for k in between], rel=0.05)


def test_only_kernels_of_known_operators_are_known() -> None:
    assert trends().knows(conv(7, 9))
    assert trends().knows(integer("QLinearAdd"))
    assert not trends().knows(Kernel(op_type="Erf", inputs=ADD.inputs, outputs=ADD.outputs))


def integer(op_type: str, size: int = 64) -> Kernel:
    return Kernel(op_type=op_type, inputs=(("uint8", (1, size)),) * 2, outputs=(("uint8", (1, size)),))


def test_a_family_that_was_never_read_takes_what_the_nearest_lets_expect_less_surely() -> None:
    found, other = trends(), integer("Add")
    assert found.borrows(other)
    assert not found.borrows(ADD)
    assert found.expected([other]) == pytest.approx(found.expected([ADD]))
    assert found.shared([other], [other])[0, 0] > found.shared([ADD], [ADD])[0, 0] + 0.2
    assert found.shared([other], [ADD]) == pytest.approx(found.shared([ADD], [ADD]))


def test_the_same_operator_in_another_type_is_nearer_than_its_integer_variant() -> None:
    every = [ADD, integer("QLinearAdd")]
    found = KernelTrends(every, np.array([2.0, 9.0]), np.ones(2))
    assert found.expected([integer("Add")])[0] == pytest.approx(2.0, rel=0.1)
    assert found.expected([integer("QLinearAdd", 65)])[0] == pytest.approx(9.0, rel=0.1)


def test_near_sizes_deviate_alike_and_families_apart() -> None:
    shared = trends().shared([conv(32, 32)], [conv(32, 40), conv(128, 8), ADD])[0]
    assert shared[0] > shared[1] > shared[2] == 0.0


def test_kernels_that_differ_for_no_reason_have_a_share_of_their_own() -> None:
    assert trends(noise=0.15).own > trends().own
