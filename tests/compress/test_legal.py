"""Which layers may take which precision."""

from typing import Any

import pytest

from autocompress.compress.legal import layer_plans, legal_precisions, legality
from autocompress.core.errors import ModelError, PlanError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.target import Precision
from autocompress.graph.model_graph import ModelGraph

INT8 = LayerPlan(weight_bits=8, activation_bits=8)


def reasons(graph: ModelGraph, precision: Precision) -> list[str | None]:
    return [legal_precisions(layer, graph)[precision] for layer in graph.layers()]


def test_an_ordinary_layer_may_take_any(small: ModelGraph) -> None:
    for layer in small.layers():
        assert legal_precisions(layer, small) == dict.fromkeys(Precision)


def test_all_layers_at_once_are_the_same(small: ModelGraph) -> None:
    assert legality(small) == {layer.name: legal_precisions(layer, small) for layer in small.layers()}


def test_a_shared_weight_is_left_alone(net: Any) -> None:
    made = net(4)
    made.node("MatMul", ["x", made.constant("m.weight", made.normal(4, 4))], "first")
    graph = made.graph(made.node("MatMul", ["first", "m.weight"], "y"))
    assert reasons(graph, Precision.W8) == ["its weight is shared with 'n_y'", "its weight is shared with 'n_first'"]
    assert reasons(graph, Precision.FP32) == [None, None]


def test_a_transposed_convolution_can_only_be_stored(net: Any) -> None:
    made = net(4, 5, 5)
    made.node("ConvTranspose", ["x", made.constant("a.weight", made.normal(4, 4, 2, 2))], "y")
    graph = made.graph("y")
    assert reasons(graph, Precision.INT8) == ["there is no integer ConvTranspose"]
    assert reasons(graph, Precision.W4) == [None]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"alpha": 0.5}, "it scales its result (alpha is 0.5)"),
        ({"beta": 2.0}, "it scales its result (beta is 2)"),
    ],
)
def test_a_gemm_that_scales_has_no_integers(attributes: dict[str, Any], reason: str, net: Any) -> None:
    made = net(4)
    arrays = [made.constant("g.weight", made.normal(4, 4)), made.constant("g.bias", made.normal(4))]
    graph = made.graph(made.node("Gemm", ["x", *arrays], "y", **attributes))
    assert reasons(graph, Precision.INT8) == [reason]
    assert reasons(graph, Precision.W8) == [None]


def test_a_bias_of_another_shape_has_no_integers(net: Any) -> None:
    made = net(4)
    arrays = [made.constant("g.weight", made.normal(4, 4)), made.constant("g.bias", made.normal(1))]
    graph = made.graph(made.node("Gemm", ["x", *arrays], "y"))
    assert reasons(graph, Precision.INT8) == ["its bias has shape (1,), not (4,)"]


def test_a_stack_of_matrices_has_no_integers(net: Any) -> None:
    made = net(2, 3, 4)
    graph = made.graph(made.node("MatMul", ["x", made.constant("m.weight", made.normal(2, 4, 5))], "y"))
    assert reasons(graph, Precision.INT8) == ["its weight has 3 axes, not 2"]


def test_a_layer_of_another_graph_is_named(small: ModelGraph, demo: ModelGraph) -> None:
    with pytest.raises(ModelError, match=r"for layer 'conv1'"):
        legal_precisions(demo.layers()[0], small)


def test_the_default_passes_over_layers_that_may_not(net: Any) -> None:
    made = net(4, 5, 5)
    made.node("ConvTranspose", ["x", made.constant("up.weight", made.normal(4, 4, 2, 2))], "u")
    graph = made.graph(made.conv("u", "a", 4, 4))
    plan = CompressionPlan(layers={"*": INT8})
    assert layer_plans(plan, legality(graph)) == {"a": INT8}


def test_a_layer_named_explicitly_must_be_able_to(net: Any) -> None:
    made = net(4, 5, 5)
    made.node("ConvTranspose", ["x", made.constant("up.weight", made.normal(4, 4, 2, 2))], "u")
    graph = made.graph(made.conv("u", "a", 4, 4))
    with pytest.raises(PlanError, match="Layer 'up' cannot be int8: there is no integer ConvTranspose"):
        layer_plans(CompressionPlan(layers={"up": INT8}), legality(graph))


def test_an_unknown_layer_is_named_with_the_nearest(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="unknown layer 'fcc'; did you mean 'fc'"):
        layer_plans(CompressionPlan(layers={"fcc": INT8}), legality(small))


def test_a_layers_own_plan_goes_before_the_default(small: ModelGraph) -> None:
    plan = CompressionPlan(layers={"*": INT8, "a": LayerPlan(), "b": LayerPlan(weight_bits=4)})
    assert layer_plans(plan, legality(small)) == {"b": LayerPlan(weight_bits=4), "fc": INT8}
