"""Islands of float16."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from autocompress.compress.quantize import quantize
from autocompress.core.errors import CandidateError
from autocompress.core.plan import LayerPlan
from autocompress.core.target import Precision
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize

HALF = LayerPlan(weight_bits=16, activation_bits=16)
Run = Callable[[ModelGraph, Any], Any]


def half(graph: ModelGraph, *layers: str) -> ModelGraph:
    names = layers or tuple(layer.name for layer in graph.layers())
    return quantize(graph, dict.fromkeys(names, HALF), None)


def casts(graph: ModelGraph) -> list[tuple[str, str]]:
    found = [node for node in graph.model.graph if node.op_type == "Cast"]
    return [(str(n.inputs[0].name), str(ir.DataType(n.attributes["to"].as_int()))) for n in found if n.inputs[0]]


@pytest.fixture
def small_pool() -> ModelGraph:
    """A convolution and a MaxPool that tells where it found its maxima."""
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a.weight"], ["a"], name="n_a"),
            helper.make_node("MaxPool", ["a"], ["pooled", "where"], name="n_pooled", kernel_shape=[2, 2]),
        ],
        "net",
        [helper.make_tensor_value_info("x", kind.FLOAT, ["batch", 3, 8, 8])],
        [
            helper.make_tensor_value_info("pooled", kind.FLOAT, None),
            helper.make_tensor_value_info("where", kind.INT64, None),
        ],
        [onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "a.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ModelGraph(normalize(ir.from_proto(model)))


def test_a_whole_net_is_one_island(small: ModelGraph, images: Any, run_graph: Run) -> None:
    made = half(small)
    assert [kind for _, kind in casts(made)] == ["FLOAT16", "FLOAT"]
    np.testing.assert_allclose(run_graph(made, images), run_graph(small, images), atol=0.01)


def test_all_weights_of_an_island_are_float16(small: ModelGraph) -> None:
    kinds = {array.dtype for name, array in half(small).initializers.items() if name.endswith("_half")}
    assert kinds == {np.dtype(np.float16)}


def test_casts_stand_at_the_shores_only(small: ModelGraph, images: Any, run_graph: Run) -> None:
    made = half(small, "b")
    assert casts(made) == [("a_relu", "FLOAT16"), ("flat", "FLOAT")]
    np.testing.assert_allclose(run_graph(made, images), run_graph(small, images), atol=0.01)


def test_a_value_that_both_sides_read_is_cast_once(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    graph = made.graph(made.conv("ra", "b", 4, 8), made.conv("ra", "c", 4, 8), made.conv("ra", "d", 4, 8))
    found = half(graph, "a", "b")
    assert casts(found) == [("x", "FLOAT16"), ("ra", "FLOAT"), ("b_inner", "FLOAT")]
    np.testing.assert_allclose(run_graph(found, images), run_graph(graph, images), atol=0.02)


def test_constants_of_an_operator_inside_are_float16(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.node("Mul", [made.conv("x", "a", 8, 3), made.constant("gain", made.normal(1, 8, 1, 1))], "m")
    graph = made.graph(made.conv("m", "b", 4, 8))
    found = half(graph)
    assert len(casts(found)) == 2
    np.testing.assert_allclose(run_graph(found, images), run_graph(graph, images), atol=0.02)


def test_an_operator_without_float16_ends_the_island(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.node("Erf", [made.conv("x", "a", 8, 3)], "e")
    graph = made.graph(made.conv("e", "b", 4, 8))
    found = half(graph)
    assert casts(found) == [("x", "FLOAT16"), ("a", "FLOAT"), ("e", "FLOAT16"), ("b_inner", "FLOAT")]
    np.testing.assert_allclose(run_graph(found, images), run_graph(graph, images), atol=0.02)


def test_an_operator_that_reads_only_what_an_island_reads_stays_outside(net: Any) -> None:
    made = net(3, 8, 8)
    made.node("Relu", [made.conv("x", "a", 8, 3)], "ra")
    made.node("Sigmoid", ["ra"], "gate")
    found = half(made.graph(made.conv("ra", "b", 4, 8), made.node("Add", ["gate", "ra"], "both")), "b")
    assert casts(found) == [("ra", "FLOAT16"), ("b_inner", "FLOAT")]


def test_the_integer_output_of_an_operator_inside_keeps_its_type(small_pool: ModelGraph) -> None:
    made = half(small_pool, "a")
    kinds = {str(v.name): v.dtype for node in made.model.graph for v in node.outputs}
    assert kinds["where"] == ir.DataType.INT64
    assert casts(made) == [("x", "FLOAT16"), ("pooled_inner", "FLOAT")]


def test_a_constant_past_float16_is_refused(net: Any) -> None:
    made = net(3, 8, 8)
    made.conv("x", "a", 4, 3)
    made.constant("a.bias", np.full(4, -1e6, np.float32))
    with pytest.raises(CandidateError, match=r"'a.bias' holds 1e\+06"):
        half(made.graph("a"))


class TestBfloat16:
    """ONNX Runtime's CPU provider has no bfloat16 convolution: torch runs the graph in its place."""

    PLAN = LayerPlan(weight_bits=16, activation_bits=16, float_type="bfloat16")

    def test_a_whole_net_is_one_island(self, small: ModelGraph) -> None:
        made = quantize(small, dict.fromkeys([layer.name for layer in small.layers()], self.PLAN), None)
        assert [kind for _, kind in casts(made)] == ["BFLOAT16", "FLOAT"]
        onnx.checker.check_model(made.to_bytes(), full_check=True)

    def test_computes_nearly_the_same_in_torch(self, small: ModelGraph, images: Any, run_graph: Run) -> None:
        made = quantize(small, dict.fromkeys([layer.name for layer in small.layers()], self.PLAN), None)
        with torch.no_grad():
            found = made.to_torch().eval()(torch.from_numpy(images)).numpy()
        wanted = run_graph(small, images)
        assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()

    def test_weights_alone_run_in_onnx_runtime(self, small: ModelGraph, images: Any, run_graph: Run) -> None:
        plan = LayerPlan(weight_bits=16, float_type="bfloat16")
        made = quantize(small, dict.fromkeys([layer.name for layer in small.layers()], plan), None)
        wanted = run_graph(small, images)
        assert np.abs(run_graph(made, images) - wanted).max() < 0.02 * np.abs(wanted).max()

    def test_a_constant_past_float16_is_fine(self, net: Any) -> None:
        made = net(3, 8, 8)
        made.conv("x", "a", 4, 3)
        made.constant("a.bias", np.full(4, -1e6, np.float32))
        assert len(casts(quantize(made.graph("a"), {"a": self.PLAN}, None))) == 2

    def test_it_is_a_precision_of_targets(self) -> None:
        assert Precision.of(self.PLAN) is Precision.BF16
        assert Precision.BF16.layer_plan == self.PLAN
