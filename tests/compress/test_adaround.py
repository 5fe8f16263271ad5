"""Rounding by the layer's outputs: better than the nearest, within one step of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autocompress.compress.adaround import adaround, refused_adaround, round_layers
from autocompress.compress.apply import Compressor, compress
from autocompress.compress.weights import quantize_weight
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]


def rounding(bits: int = 4, **fields: Any) -> LayerPlan:
    return LayerPlan(weight_bits=bits, rounding="adaround", **fields)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_correlated_inputs_err_less_on_new_data(bits: int) -> None:
    rng = np.random.default_rng(bits)
    mixing = rng.normal(size=(6, 24))
    weight = rng.normal(size=(10, 24)).astype(np.float32)
    x, new = (rng.normal(size=(500, 6)) @ mixing + 0.1 * rng.normal(size=(500, 24)) for _ in range(2))
    nearest = quantize_weight(weight, bits, 0)
    found = adaround(weight, nearest.values, nearest.scale, x.T @ x / 500, 2 ** (bits - 1) - 1)
    errors = [np.square(new @ (q * nearest.scale[:, None] - weight).T).mean() for q in (found, nearest.values)]
    assert errors[0] < 0.6 * errors[1]
    assert np.abs(found.astype(int) - nearest.values).max() <= 1


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_no_channel_is_ever_worse(steps: int) -> None:
    rng = np.random.default_rng(steps)
    weight, x = rng.normal(size=(8, 12)).astype(np.float32), rng.normal(size=(50, 12))
    nearest = quantize_weight(weight, 4, 0)
    found = adaround(weight, nearest.values, nearest.scale, x.T @ x / 50, 7, steps=steps)
    error = [np.square(x @ (q * nearest.scale[:, None] - weight).T).sum(0) for q in (found, nearest.values)]
    assert (error[0] <= error[1] * (1 + 1e-9)).all()


def test_zeros_stay_zero() -> None:
    rng = np.random.default_rng(1)
    weight, x = rng.normal(size=(8, 12)).astype(np.float32), rng.normal(size=(50, 3)) @ rng.normal(size=(3, 12))
    weight[rng.random(weight.shape) < 0.5] = 0
    nearest = quantize_weight(weight, 4, 0)
    found = adaround(weight, nearest.values, nearest.scale, x.T @ x / 50, 7)
    assert not found[weight == 0].any() and not np.array_equal(found, nearest.values)


@pytest.mark.parametrize(
    "fields", [{}, {"granularity": "tensor"}, {"activation_bits": 8}, {"activation_bits": 8, "dynamic": True}]
)
def test_a_plan_s_layers_err_less_than_nearest(fields: dict[str, Any], net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 12, 3)], "a_relu")
    made.conv("a_relu", "b", 16, 12)
    graph = made.graph("b")
    expected, errors = run_graph(graph, images), []
    for kind in ("adaround", "nearest"):
        plan = CompressionPlan(layers={"b": LayerPlan(weight_bits=3, rounding=kind, **fields)})
        found = run_graph(compress(graph, plan, dataset=ArrayDataset([images])), images)
        errors.append(np.square(found - expected).mean())
    assert errors[0] < 0.9 * errors[1]


def test_the_same_plan_rounds_the_same(small: ModelGraph, small_data: ArrayDataset) -> None:
    plans = {"a": rounding(), "fc": rounding(3)}
    first, again = (round_layers(small, plans, small_data) for _ in range(2))
    assert list(first) == ["a", "fc"]
    for name in first:
        np.testing.assert_array_equal(first[name].values, again[name].values)


def test_without_data_it_is_refused(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match=r"'adaround' of layer 'a' needs data"):
        compress(small, CompressionPlan(layers={"a": rounding()}))


def test_a_draft_rounds_to_the_nearest(small: ModelGraph, small_data: ArrayDataset) -> None:
    compressor = Compressor(small, dataset=small_data)
    draft = compressor.finish(small, CompressionPlan(layers={"*": rounding()}), draft=True)
    near = compressor.finish(small, CompressionPlan(layers={"*": LayerPlan(weight_bits=4)}), draft=True)
    assert draft.to_bytes() == near.to_bytes()


def test_a_layer_that_cannot_is_told_where_it_is_named(net: Any, images: Any) -> None:
    made = net(3, 8, 8)
    made.node("ConvTranspose", ["x", made.constant("a.weight", made.normal(3, 4, 2, 2))], "y")
    graph, data = made.graph("y"), ArrayDataset([images])
    assert "ConvTranspose" in str(refused_adaround(graph.model.graph[0]))
    with pytest.raises(PlanError, match=r"Layer 'a' cannot be w4a32-adaround: .*not ConvTranspose"):
        compress(graph, CompressionPlan(layers={"a": rounding()}), dataset=data)
    compress(graph, CompressionPlan(layers={"*": rounding()}), dataset=data)
