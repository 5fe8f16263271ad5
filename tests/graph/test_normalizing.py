from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.core.errors import ModelError
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize

node = helper.make_node
FLOAT = TensorProto.FLOAT


def proto_of(
    nodes: Sequence[NodeProto],
    weights: dict[str, NDArray[Any]],
    *,
    shape: Sequence[int | str | None] = ("n", 4),
    dtype: int = FLOAT,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def load(nodes: Sequence[NodeProto], weights: dict[str, NDArray[Any]], **options: Any) -> ModelGraph:
    return ModelGraph(normalize(ir.from_proto(proto_of(nodes, weights, **options))))


def op_types(graph: ModelGraph) -> list[str]:
    return [n.op_type for n in graph.model.graph]


def run(graph: ModelGraph, x: NDArray[Any]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {"x": x})]


WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


def test_a_constant_node_becomes_an_initializer() -> None:
    graph = load(
        [node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT[0])), node("Add", ["x", "c"], ["y"])], {}
    )
    assert op_types(graph) == ["Add"]
    np.testing.assert_array_equal(graph.initializers["c"], WEIGHT[0])


@pytest.mark.parametrize(
    "views",
    [
        [node("Transpose", ["w"], ["t"], perm=[1, 0])],
        [node("Identity", ["w"], ["i"]), node("Transpose", ["i"], ["t"])],
        [node("Transpose", ["w"], ["u"]), node("Identity", ["u"], ["t"])],
        [node("Cast", ["w"], ["u"], to=FLOAT), node("Transpose", ["u"], ["t"])],
    ],
    ids=["transpose", "identity-transpose", "transpose-identity", "cast-transpose"],
)
def test_a_weight_keeps_its_name_through_views(views: list[NodeProto]) -> None:
    graph = load([*views, node("MatMul", ["x", "t"], ["y"])], {"w": WEIGHT})
    assert op_types(graph) == ["MatMul"]
    assert set(graph.initializers) == {"w"}
    np.testing.assert_array_equal(run(graph, X)[0], X @ WEIGHT.T)


def test_half_precision_weights_are_unpacked_under_their_name() -> None:
    nodes = [node("Cast", ["w"], ["f"], to=FLOAT), node("Gemm", ["x", "f"], ["y"], transB=1)]
    graph = load(nodes, {"w": WEIGHT.astype(np.float16)})
    assert [(layer.name, layer.weight) for layer in graph.layers()] == [("w", "w")]
    assert graph.initializers["w"].dtype == np.float32


def test_a_weight_that_is_read_straight_and_transposed_stays_two() -> None:
    square = np.arange(16, dtype=np.float32).reshape(4, 4)
    nodes = [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    graph = load(nodes, {"w": square})
    np.testing.assert_allclose(run(graph, X)[0], X @ square.T @ square, rtol=1e-4)
    assert len(graph.layers()) == 2


def test_identity_of_a_shared_initializer_gets_one_of_its_own() -> None:
    nodes = [node("Identity", ["a"], ["b"]), node("Mul", ["x", "a"], ["h"]), node("Mul", ["h", "b"], ["y"])]
    graph = load(nodes, {"a": WEIGHT[0]})
    assert set(graph.initializers) == {"a", "b"}
    assert "Identity" not in op_types(graph)


def test_identity_of_an_initializer_that_nobody_else_reads_goes() -> None:
    graph = load([node("Identity", ["a"], ["b"]), node("Mul", ["x", "b"], ["y"])], {"a": WEIGHT[0]})
    assert set(graph.initializers) == {"a"}


def test_computed_weights_are_folded() -> None:
    nodes = [node("Mul", ["w", "s"], ["v"]), node("Gemm", ["x", "v"], ["y"], transB=1)]
    graph = load(nodes, {"w": WEIGHT, "s": np.array([2], np.float32)})
    np.testing.assert_array_equal(graph.initializers["v"], 2 * WEIGHT)


def test_a_large_constant_is_not_blown_up() -> None:
    nodes = [
        node("Expand", ["c", "s"], ["e"]),
        node("ReduceMax", ["e"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["y"]),
    ]
    graph = load(nodes, {"c": np.ones((1, 1), np.float32), "s": np.array([4096, 4096], np.int64)})
    assert graph.size_bytes() < 10_000


def test_batch_normalization_is_not_merged_into_conv() -> None:
    ones = np.ones(3, np.float32)
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])]
    graph = load(
        nodes,
        {"w": np.ones((3, 4, 1, 1), np.float32), "g": ones, "b": ones, "m": ones, "v": ones},
        shape=("n", 4, 2, 2),
    )
    assert op_types(graph) == ["Conv", "BatchNormalization"]


def test_quantize_and_dequantize_stay() -> None:
    scale, zero = np.array(0.5, np.float32), np.array(0, np.int8)
    nodes = [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("Gemm", ["x", "w"], ["y"], transB=1)]
    graph = load(nodes, {"q": WEIGHT.astype(np.int8), "s": scale, "z": zero})
    assert op_types(graph) == ["DequantizeLinear", "Gemm"]


def test_the_cast_of_a_packed_weight_stays() -> None:
    nodes = [
        node("Cast", ["q"], ["i"], to=TensorProto.INT8),
        node("DequantizeLinear", ["i", "s"], ["w"]),
        node("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    model = ir.from_proto(proto_of(nodes, {"s": np.array(0.5, np.float32)}))
    packed = ir.tensor((WEIGHT % 7).astype(ml_dtypes.int4), name="q")
    model.graph.register_initializer(ir.Value(name="q", const_value=packed))
    for user in model.graph:
        if user.op_type == "Cast":
            user.replace_input_with(0, model.graph.initializers["q"])
    graph = ModelGraph(normalize(model))
    assert op_types(graph) == ["Cast", "DequantizeLinear", "Gemm"]
    np.testing.assert_allclose(run(graph, X)[0], X @ (WEIGHT % 7 * 0.5).T, rtol=1e-5)


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_dropout_goes(opset: int) -> None:
    graph = load([node("Relu", ["x"], ["h"]), node("Dropout", ["h"], ["y"])], {}, opset=opset)
    assert op_types(graph) == ["Relu"]
    assert graph.output_names == ("y",)


def test_dead_nodes_and_weights_go() -> None:
    graph = load([node("Relu", ["x"], ["y"]), node("Add", ["x", "w"], ["unused"])], {"w": WEIGHT[0], "v": WEIGHT[1]})
    assert op_types(graph) == ["Relu"]
    assert len(graph.initializers) == 0


def test_initializers_that_are_inputs_too_are_no_inputs() -> None:
    proto = proto_of([node("Add", ["x", "w"], ["y"])], {"w": WEIGHT[0]})
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4]))
    assert ModelGraph(normalize(ir.from_proto(proto))).input_names == ("x",)


def test_nodes_get_unique_names() -> None:
    relus = [node("Relu", ["x"], ["a"], name="r"), node("Relu", ["a"], ["b"], name="r"), node("Relu", ["b"], ["y"])]
    names = [n.name for n in load(relus, {}).model.graph]
    assert all(names)
    assert len(set(names)) == 3


def test_an_old_operator_set_is_converted() -> None:
    graph = load([node("Squeeze", ["x"], ["y"], axes=[2])], {}, shape=("n", 4, 1), opset=11)
    assert graph.model.opset_imports[""] >= 21
    assert graph.value_shape("y") == (None, 4)


def test_an_operator_set_that_is_too_new_comes_down() -> None:
    newest = onnx.defs.onnx_opset_version()
    np.testing.assert_allclose(run(load([node("Relu", ["x"], ["y"])], {}, opset=newest), X)[0], np.maximum(X, 0))


def test_weights_survive_the_conversion_of_an_old_operator_set() -> None:
    weight = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    graph = load(
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"w": weight, "b": np.zeros(300, np.float32)}, opset=9
    )
    np.testing.assert_allclose(run(graph, X)[0], X @ weight.T, atol=1e-5)
    assert graph.input_names == ("x",)


@pytest.mark.parametrize("version", [3, 8, 10, 13, 14])
def test_the_ir_version_is_one_that_the_runtime_reads(version: int) -> None:
    proto = proto_of([node("Relu", ["x"], ["y"])], {})
    proto.ir_version = version
    assert 10 <= normalize(ir.from_proto(proto)).ir_version <= 13


@pytest.mark.parametrize("name", ["n", "batch_size", None])
def test_the_open_batch_axis_is_called_batch(name: str | None) -> None:
    graph = load([node("Relu", ["x"], ["y"])], {}, shape=(name, 4))
    assert [str(value.shape) for value in graph.values.values()] == ["[batch,4]", "[batch,4]"]


def test_a_computed_reshape_becomes_constant() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    graph = load(nodes, {"zero": np.array([0]), "rest": np.array([-1])}, shape=("n", 4, 3))
    assert op_types(graph) == ["Reshape"]
    assert graph.value_shape("y") == (None, 12)
    assert run(graph, np.zeros((5, 4, 3), np.float32))[0].shape == (5, 12)


def test_every_value_has_a_shape() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["p"]), node("Flatten", ["p"], ["y"])]
    graph = load(nodes, {"w": np.ones((3, 4, 3, 3), np.float32)}, shape=("n", 4, 8, 8))
    assert {name: graph.value_shape(name) for name in ("c", "p", "y")} == {
        "c": (None, 3, 6, 6),
        "p": (None, 3, 1, 1),
        "y": (None, 3),
    }


def test_macs_count_one_sample_where_the_batch_is_folded_into_another_axis() -> None:
    nodes = [node("Reshape", ["x", "t"], ["r"]), node("Gemm", ["r", "w"], ["y"], transB=1)]
    graph = load(nodes, {"t": np.array([-1, 4]), "w": WEIGHT}, shape=("n", 7, 4))
    assert graph.macs() == 7 * 3 * 4


def test_macs_of_a_fixed_batch_are_those_of_one_sample() -> None:
    assert load([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": WEIGHT}, shape=(5, 4)).macs() == 12


def test_an_operator_of_onnxruntime_is_kept() -> None:
    graph = load([node("Gelu", ["x"], ["y"], domain="com.microsoft")], {}, domains=["com.microsoft"])
    assert op_types(graph) == ["Gelu"]
    assert run(graph, X)[0].shape == (2, 4)


def branch(value: float) -> onnx.GraphProto:
    constant = node("Constant", [], ["b"], value=numpy_helper.from_array(np.full((1, 4), value, np.float32)))
    return helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("b", FLOAT, [1, 4])])


def choice(condition: str) -> NodeProto:
    return node("If", [condition], ["i"], name="choice", then_branch=branch(1), else_branch=branch(2))


def test_a_choice_that_is_constant_is_folded() -> None:
    graph = load([choice("c"), node("Add", ["x", "i"], ["y"])], {"c": np.array(True)})
    np.testing.assert_allclose(run(graph, X)[0], X + 1)


@pytest.mark.parametrize(
    ("nodes", "weights", "options", "message"),
    [
        ([node("Fancy", ["x"], ["y"], name="f", domain="my.ops")], {}, {"domains": ["my.ops"]}, "'f'.*my.ops::Fancy"),
        ([node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, {"shape": ("n", 5)}, "contradicts itself.*MatMul"),
        ([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": WEIGHT * np.nan}, {}, "'w' holds NaN"),
        ([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": WEIGHT + np.inf}, {}, "'w' holds NaN or infinity"),
        ([node("Relu", ["x"], ["y"])], {}, {"shape": None}, "'x' has no type or shape"),
        ([node("Add", ["x", "ghost"], ["y"], name="a")], {}, {}, "'a'.*reads 'ghost', which nothing makes"),
        ([node("Affine", ["x"], ["y"])], {}, {"opset": 5}, "Operator set 5 cannot be converted to 21: .*Affine"),
        (
            [node("Dropout", ["x", "r", "t"], ["y"], name="d")],
            {"r": np.array(0.5, np.float32), "t": np.array(True)},
            {},
            "'d' is a Dropout in training mode",
        ),
    ],
    ids=["custom", "shapes", "nan", "inf", "no-shape", "dangling", "opset", "training"],
)
def test_what_cannot_be_compressed_is_refused_in_one_line(
    nodes: list[NodeProto], weights: dict[str, NDArray[Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        load(nodes, weights, **options)
    assert "\n" not in str(raised.value)


def test_infinity_is_fine_as_a_bound() -> None:
    graph = load([node("Max", ["x", "low"], ["y"])], {"low": np.array(-np.inf, np.float32)})
    np.testing.assert_array_equal(run(graph, X)[0], X)
