"""The shift that coarse weights put on outputs, against outputs that were computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from autocompress.compress.bias_correction import channel_means, output_shift
from autocompress.compress.calibrate import calibrate
from autocompress.compress.quantize import quantize
from autocompress.core.plan import LayerPlan
from autocompress.evaluate.datasets import ArrayDataset

rng = np.random.default_rng(0)


def coarse(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.round(weight).astype(np.float32)


@pytest.mark.parametrize(
    ("op_type", "attributes", "axis"), [("Gemm", {"transB": 1}, 0), ("Gemm", {}, 1), ("MatMul", {}, 1)]
)
def test_a_linear_layer_shifts_by_the_mean_of_its_outputs(op_type: str, attributes: dict[str, int], axis: int) -> None:
    shape = (5, 6) if axis == 0 else (6, 5)
    weight, x = rng.normal(size=shape).astype(np.float32), rng.normal(1, 1, (200, 6)).astype(np.float32)
    node = ir.node(op_type, [ir.Value(name="x"), ir.Value(name="w")], attributes)
    found = output_shift(node, weight, coarse(weight), axis, channel_means(x))
    error = coarse(weight) - weight
    np.testing.assert_allclose(found, (x @ (error.T if axis == 0 else error)).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_of_any_groups_shifts_by_its_kernels_sums(groups: int) -> None:
    weight = rng.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    means = rng.normal(size=4)
    node = ir.node("Conv", [ir.Value(name="x"), ir.Value(name="w")], {"group": groups})
    found = output_shift(node, weight, coarse(weight), 0, means)
    wanted = [
        (error.sum((1, 2)) * means[(out // (8 // groups)) * (4 // groups) :][: 4 // groups]).sum()
        for out, error in enumerate(coarse(weight) - weight)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_means_of_something_else_give_nothing() -> None:
    weight = np.ones((4, 6), np.float32)
    node = ir.node("Gemm", [ir.Value(name="x"), ir.Value(name="w")], {"transB": 1})
    assert output_shift(node, weight, weight, 0, np.zeros(5)) is None
    assert output_shift(ir.node("LSTM", [], {}), weight, weight, 0, np.zeros(6)) is None


def test_outputs_of_coarse_weights_keep_their_means(net: Any, run_graph: Any) -> None:
    made = net(6, 8, 8)
    graph = made.graph(made.conv("x", "a", 8, 6))
    x = rng.normal(1, 1, (64, 6, 8, 8)).astype(np.float32)
    plans = {"a": LayerPlan(weight_bits=3)}
    wanted = run_graph(graph, x).mean((0, 2, 3))
    shifts = [
        np.abs(run_graph(quantize(graph, plans, ranges), x).mean((0, 2, 3)) - wanted).max()
        for ranges in (None, calibrate(graph, ArrayDataset([x]), samples=64))
    ]
    # Padding is taken for average input, so the outermost positions still differ.
    assert shifts[1] < 0.4 * shifts[0]
