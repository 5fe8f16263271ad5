"""Kernels: what tells them apart, and what of their sizes decides their time."""

import numpy as np
import pytest

from autocompress.core.kernel import Kernel, KernelTimes

CONV = Kernel(
    op_type="Conv",
    inputs=(("float", (1, 16, 32, 32)), ("float", (24, 16, 3, 3)), ("float", (24,))),
    outputs=(("float", (1, 24, 16, 16)),),
    weight=(24, 16, 3, 3),
    kind="strides=[2,2]",
)
DEPTHWISE = Kernel(
    op_type="QLinearConv",
    inputs=(("uint8", (1, 8, 8, 32)), ("float", ()), ("uint8", ())),
    outputs=(("uint8", (1, 8, 8, 32)),),
    weight=(32, 1, 3, 3),
    kind="group=depthwise",
)
ADD = Kernel(op_type="Add", inputs=(("float", (1, 8)), ("float", (1, 8))), outputs=(("float", (1, 8)),))


@pytest.mark.parametrize("kernel", [CONV, DEPTHWISE, ADD])
def test_a_key_reads_back_as_the_same_kernel(kernel: Kernel) -> None:
    assert Kernel.from_key(kernel.key) == kernel


def test_a_family_names_type_window_and_kind() -> None:
    assert CONV.family == "Conv float 3x3 strides=[2,2]"
    assert DEPTHWISE.family == "QLinearConv uint8 3x3 group=depthwise"
    assert ADD.family == "Add float"


def test_work_counts_multiply_accumulates_and_elements() -> None:
    assert CONV.work == (16 * 16 * 24 * 16 * 9, 24 * 16 * 9, 16 * 32 * 32, 24 * 16 * 16)
    assert ADD.work == (0, 0, 16, 8)


def test_pixels_are_counted_in_either_layout() -> None:
    assert CONV.outputs_spatial == 256
    assert DEPTHWISE.outputs_spatial == 64


def test_calm_times_are_means_of_the_shorter_ones() -> None:
    times = KernelTimes(kernels=(ADD, CONV), microseconds=np.array([[1.0, 9], [2, 7], [90, 8], [4, 70], [3, 6]]))
    assert times.calm(0.6).tolist() == [2.0, 7.0]
