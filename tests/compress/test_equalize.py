"""Cross-layer equalization: same outputs, one range, fewer bits lost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autocompress.compress.apply import compress
from autocompress.compress.equalize import equalize
from autocompress.compress.quantize import quantize
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]


def uneven(net: Any, *, activation: str = "Relu", groups: int = 1) -> ModelGraph:
    """conv - activation - conv - relu - conv with channels of very different ranges."""
    made = net(3, 8, 8)
    spread = np.exp(np.random.default_rng(2).normal(0, 2, 8)).astype(np.float32)
    first = made.normal(8, 3, 3, 3) * spread[:, None, None, None]
    made.constant("a.weight", first)
    made.node("Conv", ["x", "a.weight", made.constant("a.bias", made.normal(8) * spread)], "a", pads=[1] * 4)
    bounds = [made.constant("low", np.float32(0)), made.constant("high", np.float32(6))]
    made.node(activation, ["a", *(bounds if activation == "Clip" else [])], "a_relu")
    made.conv("a_relu", "b", 8, 8 // groups, group=groups)
    made.node("Relu", ["b"], "b_relu")
    made.conv("b_relu", "c", 4, 8)
    return made.graph("c")


def reach(graph: ModelGraph, first: str, second: str, groups: int = 1) -> tuple[Any, Any]:
    """Largest weight of each channel between two layers, from its definition."""
    a, b = graph.initializers[f"{first}.weight"], graph.initializers[f"{second}.weight"]
    into = b.shape[1]
    of = len(b) // groups
    second_reach = [np.abs(b[group * of : (group + 1) * of, i]).max() for group in range(groups) for i in range(into)]
    return np.abs(a).reshape(len(a), -1).max(1), np.array(second_reach)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_outputs_stay_and_ranges_meet(groups: int, net: Any, images: Any, run_graph: Run) -> None:
    graph = uneven(net, groups=groups)
    made = equalize(graph)
    expected = run_graph(graph, images)
    np.testing.assert_allclose(run_graph(made, images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    for pair in (("a", "b", groups), ("b", "c", 1)):
        first, second = reach(made, *pair)
        np.testing.assert_allclose(first, second, rtol=5e-3)


def test_one_pair_takes_the_paper_s_factor(net: Any) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 6, 3)
    made.node("Relu", ["a"], "r")
    made.conv("r", "b", 4, 6)
    graph = made.graph("b")
    first, second = reach(graph, "a", "b")
    factor = np.sqrt(first * second) / second
    found = equalize(graph).initializers
    old = graph.initializers
    np.testing.assert_allclose(found["a.weight"], old["a.weight"] / factor[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(found["a.bias"], old["a.bias"] / factor, rtol=1e-5)
    np.testing.assert_allclose(found["b.weight"], old["b.weight"] * factor[None, :, None, None], rtol=1e-5)


def test_a_clip_between_blocks_its_pair(net: Any) -> None:
    graph = uneven(net, activation="Clip")
    found = equalize(graph).initializers
    np.testing.assert_array_equal(found["a.weight"], graph.initializers["a.weight"])
    assert not np.array_equal(found["c.weight"], graph.initializers["c.weight"])


def test_a_value_with_two_readers_blocks_its_pair(small: ModelGraph) -> None:
    assert equalize(small) is small


def test_a_dead_channel_stays_as_it_is(net: Any, images: Any, run_graph: Run) -> None:
    graph = uneven(net)
    dead = graph.initializers["a.weight"].copy()
    dead[3] = 0
    graph = graph.with_initializers({"a.weight": dead})
    found = run_graph(equalize(graph), images)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, run_graph(graph, images), rtol=1e-4, atol=1e-3)


def test_one_scale_a_tensor_errs_less_after_it(net: Any, images: Any, run_graph: Run) -> None:
    graph = uneven(net)
    expected = run_graph(graph, images)
    plan = {name: LayerPlan(weight_bits=8, granularity="tensor") for name in ("a", "b", "c")}
    errors = [np.square(run_graph(quantize(g, plan, None), images) - expected).mean() for g in (graph, equalize(graph))]
    assert errors[1] < 0.7 * errors[0]


def test_a_plan_asks_for_it(net: Any, images: Any) -> None:
    graph, data = uneven(net), ArrayDataset([images])
    layers = {"*": LayerPlan(weight_bits=8, activation_bits=8, granularity="tensor")}
    plan = CompressionPlan(layers=layers, equalize=True)
    assert plan.to_dict()["equalize"] is True and "equalize" not in CompressionPlan(layers=layers).to_dict()
    assert CompressionPlan.from_json(plan.to_json()) == plan
    made = [compress(graph, p, dataset=data).to_bytes() for p in (plan, plan, CompressionPlan(layers=layers))]
    assert made[0] == made[1] != made[2]
