"""Models that are unusual or wrong: each is handled, or refused in one line that names the operator and node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autocompress.api import analyze
from autocompress.compress.apply import compress
from autocompress.core.errors import ModelError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph

FLOAT, DOUBLE, BFLOAT16 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16
node = helper.make_node
#: Weights in 8 bits and half of the channels: what a plan can do to a model without data.
PLAN = CompressionPlan(layers={"*": LayerPlan(weight_bits=8)}, prune={"*": 0.5})
X = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


def value(name: str, shape: Sequence[int | str] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(*sizes: int, dtype: Any = np.float32) -> NDArray[Any]:
    return (np.random.default_rng(sum(sizes)).normal(size=sizes) * 0.3).astype(dtype)


def conv(source: str, name: str, out: str) -> NodeProto:
    return node("Conv", [source, name], [out], name=f"node_{out}", auto_pad="SAME_UPPER")


def written(
    folder: Path,
    nodes: Sequence[NodeProto],
    weights: dict[str, NDArray[Any]],
    *,
    shape: Sequence[int | str] = ("n", 3, 8, 8),
    dtype: int = FLOAT,
    outputs: Sequence[str] = ("y",),
    out_shape: Sequence[int | str] | None = None,
    opset: int = 21,
    ir_version: int = 10,
    domains: Sequence[str] = (),
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", shape, dtype)],
        [value(name, out_shape, dtype) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    path = folder / "net.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())
    return path


def run(model: bytes | Path, x: NDArray[Any] = X) -> NDArray[Any]:
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def compressed(graph: ModelGraph) -> NDArray[Any]:
    return run(compress(graph, PLAN).to_bytes())


def branch(op_type: str, source: str) -> GraphProto:
    return helper.make_graph([node(op_type, [source], ["b"])], "branch", [], [value("b", None)])


def around(middle: NodeProto, *more: NodeProto) -> list[NodeProto]:
    """Two convolutions before ``middle``, which makes "m" of "c", and one behind it."""
    return [
        conv("x", "first", "a"),
        node("Relu", ["a"], ["ra"]),
        conv("ra", "w", "c"),
        *more,
        middle,
        conv("m", "last", "y"),
    ]


WEIGHTS = {"first": weight(6, 3, 3, 3), "w": weight(8, 6, 3, 3), "last": weight(4, 8, 1, 1)}
POSITIVE = [
    node("ReduceMean", ["x"], ["mean"], keepdims=0),
    node("Greater", ["mean", "zero"], ["positive"]),
]


def control_flow(kind: str) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    if kind == "If":
        middle = node(
            "If", ["positive"], ["m"], name="it", then_branch=branch("Relu", "c"), else_branch=branch("Neg", "c")
        )
        return around(middle, *POSITIVE), {"zero": np.float32(0)}
    if kind == "Loop":
        body = helper.make_graph(
            [conv("s", "inner", "t"), node("Identity", ["go"], ["on"])],
            "body",
            [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("s", None)],
            [value("on", [], TensorProto.BOOL), value("t", None)],
            [numpy_helper.from_array(weight(8, 8, 3, 3), "inner")],
        )
        trips = {"trips": np.array(3), "go": np.array(True)}
        return around(node("Loop", ["trips", "go_in", "c"], ["m"], name="it", body=body)), {
            "trips": trips["trips"],
            "go_in": trips["go"],
        }
    body = helper.make_graph(
        [node("Add", ["s", "row"], ["t"]), node("Identity", ["t"], ["out"])],
        "body",
        [value("s", None), value("row", None)],
        [value("t", None), value("out", None)],
    )
    scan = node(
        "Scan", ["start", "c"], ["end", "m"], name="it", body=body, num_scan_inputs=1, scan_input_axes=[2],
        scan_output_axes=[2],
    )  # fmt: skip
    return around(scan), {"start": np.zeros((2, 8, 8), np.float32)}


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
class TestControlFlow:
    def test_computes_the_same(self, tmp_path: Path, kind: str) -> None:
        nodes, more = control_flow(kind)
        path = written(tmp_path, nodes, WEIGHTS | more, shape=(2, 3, 8, 8), out_shape=(2, 4, 8, 8))
        np.testing.assert_allclose(run(load_model(path).to_bytes()), run(path), atol=1e-5)

    def test_channels_that_reach_it_are_not_pruned(self, tmp_path: Path, kind: str) -> None:
        nodes, more = control_flow(kind)
        groups = {
            g.name: g.blocked
            for g in load_model(
                written(tmp_path, nodes, WEIGHTS | more, shape=(2, 3, 8, 8), out_shape=(2, 4, 8, 8))
            ).groups()
        }
        assert groups["first"] is None
        assert groups["w"] == f"reaches {kind} 'it', which is control flow"

    def test_what_is_around_it_is_compressed(self, tmp_path: Path, kind: str) -> None:
        nodes, more = control_flow(kind)
        path = written(tmp_path, nodes, WEIGHTS | more, shape=(2, 3, 8, 8), out_shape=(2, 4, 8, 8))
        graph = load_model(path)
        assert compressed(graph).shape == (2, 4, 8, 8)
        whole = compress(graph, CompressionPlan(layers={"*": LayerPlan(weight_bits=8)}))
        wanted = run(path)
        assert np.abs(run(whole.to_bytes()) - wanted).max() < 0.05 * np.abs(wanted).max()

    def test_analyze_says_so(self, tmp_path: Path, kind: str) -> None:
        nodes, more = control_flow(kind)
        found = analyze(str(written(tmp_path, nodes, WEIGHTS | more, shape=(2, 3, 8, 8), out_shape=(2, 4, 8, 8))))
        assert found["notes"][0].startswith(f"Node 'it' ({kind}) is control flow")


def test_a_branch_that_only_passes_on_what_lies_outside_stays_valid(tmp_path: Path) -> None:
    branches = {"then_branch": branch("Identity", "c"), "else_branch": branch("Neg", "c")}
    middle = node("If", ["positive"], ["m"], name="it", **branches)
    path = written(tmp_path, around(middle, *POSITIVE), WEIGHTS | {"zero": np.float32(-9)})
    graph = load_model(path)
    onnx.checker.check_model(graph.to_bytes())
    np.testing.assert_allclose(run(graph.to_bytes()), run(path), atol=1e-5)


def test_a_weight_that_only_a_branch_reads_stays(tmp_path: Path) -> None:
    scale = helper.make_graph([node("Mul", ["c", "gain"], ["b"])], "branch", [], [value("b", None)])
    middle = node("If", ["positive"], ["m"], name="it", then_branch=scale, else_branch=branch("Neg", "c"))
    weights = WEIGHTS | {"zero": np.float32(-9), "gain": weight(1, 8, 1, 1)}
    path = written(tmp_path, around(middle, *POSITIVE), weights)
    np.testing.assert_allclose(run(load_model(path).to_bytes()), run(path), atol=1e-5)


def test_a_custom_operator_in_a_branch_is_refused(tmp_path: Path) -> None:
    odd = helper.make_graph([node("Fancy", ["c"], ["b"], name="fancy", domain="my.ops")], "b", [], [value("b", None)])
    middle = node("If", ["positive"], ["m"], name="it", then_branch=odd, else_branch=branch("Neg", "c"))
    path = written(tmp_path, around(middle, *POSITIVE), WEIGHTS | {"zero": np.float32(0)}, domains=["my.ops"])
    with pytest.raises(ModelError, match=r"Node 'fancy' is the custom operator my\.ops::Fancy"):
        load_model(path)


class TestOldOperatorSets:
    def test_the_first_one_is_converted(self, tmp_path: Path) -> None:
        nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"], consumed_inputs=[0])]
        graph = load_model(written(tmp_path, nodes, {"w": weight(8, 3, 3, 3)}, opset=1, ir_version=3))
        assert [n.op_type for n in graph.model.graph] == ["Conv", "Relu"]

    @pytest.mark.parametrize("batch", ["n", 2])
    def test_a_gemm_that_broadcasts_as_of_old_keeps_its_open_batch(self, tmp_path: Path, batch: int | str) -> None:
        nodes = [
            node("Flatten", ["x"], ["f"]),
            node("Gemm", ["f", "w", "b"], ["g"], broadcast=1),
            node("Relu", ["g"], ["y"]),
        ]
        weights = {"w": weight(192, 4), "b": weight(4)}
        path = written(tmp_path, nodes, weights, shape=(batch, 3, 8, 8), out_shape=(batch, 4), opset=6, ir_version=3)
        graph = load_model(path)
        assert graph.batch_axis_dynamic is (batch == "n")
        wanted = np.maximum(X.reshape(2, -1) @ weights["w"] + weights["b"], 0)
        np.testing.assert_allclose(run(graph.to_bytes()), wanted, rtol=1e-4, atol=1e-5)

    def test_an_operator_that_later_ones_lack_is_named(self, tmp_path: Path) -> None:
        nodes = [node("Conv", ["x", "w"], ["c"]), node("Crop", ["c"], ["y"], name="crop", border=[1, 1, 1, 1])]
        path = written(tmp_path, nodes, {"w": weight(8, 3, 3, 3)}, opset=5, ir_version=3)
        with pytest.raises(ModelError, match=r"Operator set 5 cannot be converted to 21: node 'crop' \(Crop\)"):
            load_model(path)


class TestSharedWeights:
    def test_a_convolution_applied_twice_keeps_its_precision(self, tmp_path: Path) -> None:
        nodes = [conv("x", "first", "a"), conv("a", "w", "b"), node("Relu", ["b"], ["r"]), conv("r", "w", "y")]
        path = written(tmp_path, nodes, {"first": weight(6, 3, 3, 3), "w": weight(6, 6, 3, 3)})
        found = {layer["name"]: layer["precisions"] for layer in analyze(str(path))["layers"]}
        assert (found["w"], found["w#2"]) == (["fp32"], ["fp32"])
        assert compressed(load_model(path)).shape == (2, 6, 8, 8)

    def test_a_weight_of_two_kinds_of_layers(self, tmp_path: Path) -> None:
        turned = node("ConvTranspose", ["b", "w"], ["y"], name="turned", pads=[1, 1, 1, 1])
        path = written(tmp_path, [conv("x", "w", "b"), turned], {"w": weight(6, 3, 3, 3)})
        assert compressed(load_model(path)).shape == (2, 3, 8, 8)

    def test_a_weight_that_is_data_too(self, tmp_path: Path) -> None:
        nodes = [conv("x", "w", "c"), node("ReduceSum", ["w"], ["s"], keepdims=0), node("Mul", ["c", "s"], ["y"])]
        assert compressed(load_model(written(tmp_path, nodes, {"w": weight(6, 3, 3, 3)}))).shape == (2, 6, 8, 8)

    def test_a_weight_that_is_an_output_too(self, tmp_path: Path) -> None:
        path = written(tmp_path, [conv("x", "w", "c"), node("Relu", ["c"], ["y"])], {"w": weight(6, 3, 3, 3)})
        proto = onnx.load(path)
        proto.graph.output.append(value("w", [6, 3, 3, 3]))
        onnx.save(proto, path)
        np.testing.assert_allclose(compressed(load_model(path)), run(path), atol=1e-5)


class TestFloatTypes:
    def test_float64_becomes_float32(self, tmp_path: Path) -> None:
        path = written(
            tmp_path, [conv("x", "w", "c"), node("Relu", ["c"], ["y"])], {"w": weight(6, 3, 3, 3, dtype=np.float64)},
            dtype=DOUBLE,
        )  # fmt: skip
        graph = load_model(path)
        assert {array.dtype for array in graph.initializers.values()} == {np.dtype(np.float32)}
        wanted = ReferenceEvaluator(str(path)).run(None, {"x": X.astype(np.float64)})[0]
        np.testing.assert_allclose(run(graph.to_bytes()), wanted, atol=1e-5)

    def test_bfloat16_becomes_float32(self, tmp_path: Path) -> None:
        held = weight(6, 3, 3, 3, dtype=ml_dtypes.bfloat16)
        nodes = [conv("x", "w", "c"), node("Relu", ["c"], ["y"])]
        graph = load_model(written(tmp_path, nodes, {"w": held}, dtype=BFLOAT16, opset=22))
        np.testing.assert_array_equal(graph.initializers["w"], held.astype(np.float32))
        assert run(graph.to_bytes()).dtype == np.float32

    def test_an_island_of_bfloat16_becomes_float32(self, tmp_path: Path) -> None:
        nodes = [
            conv("x", "w", "c"),
            node("Cast", ["c"], ["low"], to=BFLOAT16),
            node("Erf", ["low"], ["e"]),
            node("Cast", ["e"], ["y"], to=FLOAT),
        ]
        graph = load_model(written(tmp_path, nodes, {"w": weight(6, 3, 3, 3)}))
        assert run(graph.to_bytes()).shape == (2, 6, 8, 8)
        assert "bfloat16" in graph.notes[0]

    def test_the_change_is_told(self, tmp_path: Path) -> None:
        held = {"w": weight(6, 3, 3, 3, dtype=np.float64)}
        found = analyze(str(written(tmp_path, [conv("x", "w", "y")], held, dtype=DOUBLE)))
        assert found["notes"] == [
            "The model computed in float64: it is float32 here, its outputs on noise within 0.001."
        ]

    def test_a_model_that_needs_float64_is_refused_with_its_node(self, tmp_path: Path) -> None:
        nodes = [
            node("Add", ["x", "far"], ["up"], name="up"),
            node("Sub", ["up", "far"], ["down"], name="down"),
            node("MatMul", ["down", "w"], ["y"]),
        ]
        weights = {"far": np.float64(1e12), "w": weight(8, 4, dtype=np.float64)}
        path = written(tmp_path, nodes, weights, dtype=DOUBLE)
        with pytest.raises(ModelError, match=r"needs float64: in float32, node 'down' \(Sub\)"):
            load_model(path)

    def test_a_number_past_float32_is_named(self, tmp_path: Path) -> None:
        path = written(tmp_path, [node("Mul", ["x", "big"], ["y"])], {"big": np.float64(1e300)}, dtype=DOUBLE)
        with pytest.raises(ModelError, match=r"'big' holds 1e\+300, but float32 ends at 3.4e38"):
            load_model(path)


class TestEmptySizes:
    def test_an_empty_weight_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path, [conv("x", "w", "y")], {"w": weight(0, 3, 3, 3)})
        with pytest.raises(
            ModelError, match=r"Node 'node_y' \(Conv\) has the empty weight 'w' of shape \(0, 3, 3, 3\)"
        ):
            load_model(path)

    @pytest.mark.parametrize("shape", [(0, 3, 8, 8), ("n", 3, 0, 8)])
    def test_an_empty_input_is_refused(self, tmp_path: Path, shape: tuple[int | str, ...]) -> None:
        with pytest.raises(ModelError, match="Input 'x' is empty"):
            load_model(written(tmp_path, [conv("x", "w", "y")], {"w": weight(6, 3, 3, 3)}, shape=shape))

    def test_an_empty_part_of_a_concatenation_is_fine(self, tmp_path: Path) -> None:
        nodes = [conv("x", "w", "c"), node("Concat", ["c", "none"], ["y"], axis=0)]
        path = written(tmp_path, nodes, {"w": weight(6, 3, 3, 3), "none": weight(0, 6, 8, 8)}, shape=(2, 3, 8, 8))
        assert compressed(load_model(path)).shape == (2, 6, 8, 8)


class TestLargeModels:
    """The path of models past protobuf's 2 GB, with a limit that a small model is past."""

    @pytest.fixture
    def graph(self, tmp_path: Path) -> ModelGraph:
        nodes = [conv("x", "first", "a"), node("Relu", ["a"], ["r"]), conv("r", "w", "y")]
        (tmp_path / "in").mkdir()
        return load_model(written(tmp_path / "in", nodes, {"first": weight(16, 3, 3, 3), "w": weight(8, 16, 3, 3)}))

    def test_weights_lie_beside_the_file(self, graph: ModelGraph, tmp_path: Path) -> None:
        graph.save(tmp_path / "net.onnx", max_bytes=1000)
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["net.onnx", "net.onnx.data"]
        assert (tmp_path / "net.onnx").stat().st_size < 1000

    def test_a_session_is_made_from_the_file(self, graph: ModelGraph, tmp_path: Path) -> None:
        graph.save(tmp_path / "net.onnx", max_bytes=1000)
        np.testing.assert_array_equal(run(tmp_path / "net.onnx"), run(graph.to_bytes()))

    def test_it_comes_back_the_same(self, graph: ModelGraph, tmp_path: Path) -> None:
        graph.save(tmp_path / "net.onnx", max_bytes=1000)
        assert load_model(tmp_path / "net.onnx").digest == graph.digest

    @pytest.mark.parametrize("bits", [8, 4, 2])
    def test_packed_weights_lie_there_too(self, graph: ModelGraph, tmp_path: Path, bits: int) -> None:
        made = compress(graph, CompressionPlan(layers={"*": LayerPlan(weight_bits=bits)}))
        made.save(tmp_path / "net.onnx", max_bytes=100)
        np.testing.assert_array_equal(run(tmp_path / "net.onnx"), run(made.to_bytes()))

    def test_nothing_is_left_where_the_data_cannot_be_written(self, graph: ModelGraph, tmp_path: Path) -> None:
        (tmp_path / "net.onnx.data").mkdir()
        with pytest.raises(ModelError, match="Cannot write"):
            graph.save(tmp_path / "net.onnx", max_bytes=1000)
        assert [p.name for p in tmp_path.iterdir() if p.is_file()] == []
