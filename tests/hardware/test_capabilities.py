"""Kinds of layers, peaks and multiples."""

import pytest

from autocompress.core.target import Precision
from autocompress.hardware.capabilities import (
    class_capability,
    default_multiples,
    layer_class,
    onnxruntime_spec,
    peak_gops,
)


@pytest.mark.parametrize(
    ("op_type", "shape", "group", "kind"),
    [
        ("Conv", (32, 16, 3, 3), 1, "dense"),
        ("Conv", (32, 16, 1, 1), 1, "pointwise"),
        ("Conv", (32, 1, 3, 3), 32, "depthwise"),
        ("Conv", (32, 1, 3, 3), 1, "dense"),
        ("Conv", (32, 8, 3, 3), 4, "dense"),
        ("Gemm", (10, 64), 1, "gemm"),
    ],
)
def test_layers_are_told_apart(op_type: str, shape: tuple[int, ...], group: int, kind: str) -> None:
    assert layer_class(op_type, shape, group) == kind


def test_peaks_grow_with_clock_and_cores() -> None:
    assert peak_gops(("avx2",), 3.0, 1) == (96.0, 192.0)
    assert peak_gops(("avx2",), 3.0, 4) == (384.0, 768.0)


def test_an_unknown_machine_still_has_peaks() -> None:
    assert min(peak_gops((), None)) > 0


def test_vector_width_decides_the_multiple() -> None:
    assert default_multiples(("avx2",))[Precision.FP32] == 8
    assert default_multiples(("avx512_vnni", "avx2"))[Precision.INT8] == 16


def test_depthwise_layers_reach_less_of_the_peak() -> None:
    spec = onnxruntime_spec(isa=("avx2",), clock_ghz=3.0)
    dense = class_capability(spec, "Conv", "dense", Precision.FP32)
    depthwise = class_capability(spec, "Conv", "depthwise", Precision.FP32)
    assert depthwise.efficiency < dense.efficiency
