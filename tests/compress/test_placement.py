"""Which values become integers."""

from typing import Any

from autocompress.compress.placement import Placement, place
from autocompress.graph.model_graph import ModelGraph


def placed(graph: ModelGraph, *layers: str) -> Placement:
    by_name = {layer.name: layer.node for layer in graph.layers()}
    nodes = {str(node.name): node for node in graph.model.graph}
    return place(graph.model.graph, [nodes[by_name[name]] for name in layers])


def values(placement: Placement) -> list[str]:
    return [str(value.name) for value in placement.values]


def test_a_chain_of_integer_layers_has_no_float_island(small: ModelGraph) -> None:
    placement = placed(small, "a", "b", "fc")
    assert values(placement) == ["x", "a_relu", "b", "b_relu", "pool", "flat"]
    assert len(placement.nodes) == len(list(small.model.graph))


def test_another_layout_takes_its_sources_scale(small: ModelGraph) -> None:
    roots = {str(v.name): str(root.name) for v, root in placed(small, "a", "b", "fc").values.items()}
    assert roots["flat"] == "pool"
    assert roots["pool"] == "pool"


def test_operators_behind_a_lone_integer_layer_join_up_to_the_next_layer(small: ModelGraph) -> None:
    assert values(placed(small, "b")) == ["a_relu", "b", "b_relu", "pool", "flat"]


def test_operators_before_a_lone_integer_layer_stay_float(small: ModelGraph) -> None:
    assert values(placed(small, "fc")) == ["flat"]


def test_an_operator_with_a_float_input_stays_float(net: Any) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    made.node("Tanh", ["x"], "t")
    made.node("Add", [made.conv("ra", "b", 8, 8), made.conv("t", "c", 8, 3)], "sum")
    graph = made.graph(made.conv("sum", "d", 4, 8))
    placement = placed(graph, "a", "b")
    assert values(placement) == ["x", "ra", "b"]
    assert "Add" not in {node.op_type for node in placement.nodes}


def test_what_only_leads_to_outputs_stays_float(net: Any) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    made.node("GlobalAveragePool", ["ra"], "pool")
    graph = made.graph(made.node("Flatten", ["pool"], "y"))
    assert values(placed(graph, "a")) == ["x", "ra"]


def test_a_gemm_writes_integers_only_where_integers_read_them(net: Any) -> None:
    made = net(6)
    made.node("Relu", [made.gemm("x", "a", 8, 6)], "ra")
    made.node("Tanh", [made.gemm("ra", "b", 8, 8)], "t")
    graph = made.graph(made.gemm("t", "c", 4, 8))
    assert values(placed(graph, "a", "b", "c")) == ["x", "ra", "t"]


def test_an_intermediate_output_is_quantized_with_its_reader(net: Any) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    graph = made.graph(made.conv("ra", "b", 4, 8), "ra")
    assert values(placed(graph, "a", "b")) == ["x", "ra", "b"]


def test_a_relu_that_shares_its_input_joins_on_its_own(net: Any) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 8, 3)
    made.node("Relu", ["a"], "ra")
    made.node("Add", [made.conv("ra", "b", 8, 8), "a"], "sum")
    graph = made.graph(made.conv("sum", "c", 4, 8))
    assert values(placed(graph, "a", "b", "c")) == ["x", "a", "ra", "b", "sum", "c"]


def test_a_float_constant_keeps_an_operator_float(net: Any) -> None:
    made = net(3, 8, 8)
    made.node("Mul", [made.conv("x", "a", 8, 3), made.constant("gain", made.normal(1, 8, 1, 1))], "m")
    graph = made.graph(made.conv("m", "b", 4, 8))
    assert {node.op_type for node in placed(graph, "a", "b").nodes} == {"Conv"}
