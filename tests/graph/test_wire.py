"""Models written field by field: what onnx_ir would have written, less what says itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from autocompress.compress.apply import compress
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.wire import write

RNG = np.random.default_rng(0)
_EVIDENT = ("QuantizeLinear", "DequantizeLinear", "Cast")


def without_what_says_itself(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The types that a written model does not repeat taken out, and the order of entries made one."""
    graph = proto.graph
    known = {value.name for value in (*graph.input, *graph.value_info) if value.type.tensor_type.HasField("shape")}
    evident = {
        name for node in graph.node if node.op_type in _EVIDENT and node.input[0] in known for name in node.output
    }
    constant = {tensor.name for tensor in graph.initializer}
    kept = [
        value
        for value in graph.value_info
        if value.name not in evident and (value.name not in constant or value.metadata_props or value.doc_string)
    ]
    # Initializers come first in one of them and last in the other.
    kept.sort(key=lambda value: value.name)
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return proto


def read(model: ir.Model) -> onnx.ModelProto:
    """What is written, read by protobuf."""
    proto = onnx.ModelProto.FromString(write(model).joined())
    infos = sorted(proto.graph.value_info, key=lambda value: value.name)
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(infos)
    return proto


def test_networks_are_written_as_onnx_ir_writes_them(network: ModelGraph) -> None:
    assert read(network.model) == without_what_says_itself(ir.to_proto(network.model))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantized_networks_too(convolutional: ModelGraph, bits: int) -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=bits, activation_bits=32)})
    made = compress(convolutional, plan).model
    assert read(made) == without_what_says_itself(ir.to_proto(made))


def unusual() -> onnx.ModelProto:
    """A bit of everything that ONNX allows around nodes and values."""
    one = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    packed = helper.make_tensor("p", TensorProto.INT4, [5], [1, -2, 3, -4, 5])
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"])
    numbers = helper.make_tensor("numbers", TensorProto.FLOAT, [2], [1.0, 2.0])
    numbers.doc_string = "kept as float_data"
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inner"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["chosen"], name="if", then_branch=inner, else_branch=inner),
        helper.make_node("Clip", ["chosen", "", "limit"], ["clipped"], name=""),
        helper.make_node("LeakyRelu", ["clipped"], ["leaky"], alpha=-0.125, name="leaky", doc_string="a note"),
        helper.make_node("Split", ["leaky"], ["left", ""], axis=-1, num_outputs=2, name="split"),
        helper.make_node("Transpose", ["left"], ["turned"], perm=[1, 0], name="turn"),
        helper.make_node("Odd", ["turned", "w"], ["odd"], domain="com.example", name="odd", words=["x", "y"], level=-3),
        helper.make_node("Twice", ["odd"], ["y"], domain="local", name="twice"),
    ]
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, "batch"], "an output")],
        [one, packed, words, numbers, numpy_helper.from_array(np.float32(6), "limit")],
        doc_string="of the graph",
        value_info=[
            helper.make_tensor_value_info("leaky", TensorProto.FLOAT, ["batch", 4], "with a note"),
            helper.make_tensor_sequence_value_info("turned", TensorProto.FLOAT, [3, None]),
        ],
    )
    graph.quantization_annotation.add(tensor_name="left").quant_parameter_tensor_names.add(key="SCALE", value="limit")
    imports = [helper.make_opsetid(domain, number) for domain, number in (("", 21), ("com.example", 3), ("local", 1))]
    model = helper.make_model(graph, opset_imports=imports, functions=[twice], ir_version=10, producer_name="someone")
    helper.set_model_props(model, {"key": "value"})
    return model


def test_what_is_unusual_is_kept() -> None:
    written = read(ir.from_proto(unusual()))
    assert written == without_what_says_itself(ir.to_proto(ir.from_proto(unusual())))
    assert written.graph.node[3].output == ["left"]
    assert written.graph.quantization_annotation[0].tensor_name == "left"


@pytest.mark.parametrize(
    "edit",
    [
        lambda node, value, tensor: node.metadata_props.update(a="b"),
        lambda node, value, tensor: value.metadata_props.update(a="b"),
        lambda node, value, tensor: tensor.metadata_props.update(a="b"),
    ],
)
def test_notes_are_kept(edit: Callable[[ir.Node, ir.Value, ir.TensorProtocol], None]) -> None:
    model = ir.from_proto(unusual())
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    edit(model.graph[4], model.graph[4].outputs[0], weight.const_value)
    assert read(model) == without_what_says_itself(ir.to_proto(model))


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=200), st.lists(st.integers(-300, 300), max_size=200))
def test_numbers_and_texts_of_any_length_read_back(number: int, text: str, numbers: list[int]) -> None:
    attributes = [ir.AttrInt64("i", number), ir.AttrString("s", text), ir.AttrInt64s("n", numbers)]
    output = ir.Value(name=text or "y", type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Any", [], attributes, outputs=[output], name=text)
    model = ir.Model(ir.Graph([], [], nodes=[node], opset_imports={"": 21}), ir_version=10)
    assert read(model) == ir.to_proto(model)


def test_a_shape_behind_what_nobody_knows_is_told() -> None:
    """A reader knows nothing of the custom operator, so the Cast behind it is all that says a shape."""
    nodes = [
        helper.make_node("Odd", ["x"], ["odd"], domain="com.example", name="odd"),
        helper.make_node("Cast", ["odd"], ["cast"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Cast", ["cast"], ["again"], to=TensorProto.FLOAT16, name="again"),
        helper.make_node("Relu", ["again"], ["y"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 3])],
        value_info=[
            helper.make_tensor_value_info("cast", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("again", TensorProto.FLOAT16, [1, 3]),
        ],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    assert [value.name for value in read(model).graph.value_info] == ["cast"]
    model.graph[2].outputs[0].doc_string = "a note"
    assert [value.name for value in read(model).graph.value_info] == ["again", "cast"]


def of_initializers(*tensors: ir.TensorProtocol) -> ir.Model:
    values = [
        ir.Value(name=str(t.name), const_value=t, shape=ir.Shape(t.shape.numpy()), type=ir.TensorType(t.dtype))
        for t in tensors
    ]
    return ir.Model(ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 21}), ir_version=10)


ARRAYS = {
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "fortran": np.asfortranarray(RNG.normal(size=(3, 5)).astype(np.float32)),
    "half": RNG.normal(size=4).astype(np.float16),
    "brain": RNG.normal(size=3).astype(ml_dtypes.bfloat16),
    "long": np.array([1, -2, 2**62]),
    "double": np.array([0.1]),
    "flags": np.array([True, False]),
    "odd": np.array([1, -2, 3], ml_dtypes.int4),
    "bytes": np.arange(200, dtype=np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_tensors_of_every_kind_are_written_as_onnx_ir_writes_them(name: str) -> None:
    model = of_initializers(ir.Tensor(ARRAYS[name], name=name))
    assert read(model) == without_what_says_itself(ir.to_proto(model))
    left_out = write(model, outside=lambda tensor, size: True)
    assert left_out.file_bytes == len(write(model).joined())
    assert list(left_out.taken) == [name]


def test_what_lies_in_another_file_is_written_whole(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    outside = ir.ExternalTensor("w", 0, 16, ir.DataType.FLOAT, shape=ir.Shape([4]), name="w", base_dir=tmp_path)
    for note in (None, "a note"):
        outside.doc_string = note
        (tensor,) = read(of_initializers(outside)).graph.initializer
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.arange(4))
        assert tensor.doc_string == (note or "")


def test_a_tensor_with_a_note_stays_inside() -> None:
    noted = ir.Tensor(np.zeros(400, np.float32), name="w", doc_string="a note")
    written = write(of_initializers(noted), outside=lambda tensor, size: True)
    assert not written.taken
    assert written.file_bytes == len(written.joined())


@pytest.mark.parametrize(
    "attribute",
    [
        ir.AttrFloat32("a", 0.0),
        ir.AttrFloat32("a", -0.1),
        ir.AttrFloat32("a", float("inf")),
        ir.AttrFloat32("a", 1e39),
        ir.AttrInt64("a", 0),
        ir.AttrInt64s("a", []),
        ir.AttrFloat32s("a", [0.5, -1.0]),
        ir.AttrString("a", ""),
        ir.AttrTensor("a", ir.tensor(np.arange(3))),
        ir.AttrInt64("a", 1, doc_string="a note"),
    ],
)
def test_attributes_keep_what_is_zero_or_empty(attribute: ir.Attr) -> None:
    node = ir.Node("", "Any", [], [attribute], num_outputs=1, name="n")
    node.outputs[0].name = "y"
    model = ir.Model(ir.Graph([], [], nodes=[node], opset_imports={"": 21}), ir_version=10)
    assert read(model) == ir.to_proto(model)


def test_what_a_file_cannot_say_is_refused() -> None:
    first = ir.Node("", "Any", [], [ir.AttrInt64("a", 2**64)], num_outputs=1, name="first")
    second = ir.Node("", "Any", first.outputs, num_outputs=1, name="second")
    model = ir.Model(ir.Graph([], [], nodes=[first, second], opset_imports={"": 21}), ir_version=10)
    with pytest.raises(ValueError, match="64 bits"):
        write(model)
    first.attributes["a"] = ir.AttrInt64("a", 1)
    first.outputs[0].name = None
    with pytest.raises(ValueError, match="no name"):
        write(model)


def test_a_file_has_one_graph_and_the_same_bytes_each_time(convolutional: ModelGraph) -> None:
    data = write(convolutional.model).joined()
    assert data == write(convolutional.clone().model).joined()
    # Some readers take the last graph field of a model, not all of them together.
    assert [field for field, _ in fields(data)].count(7) == 1


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Number and content of each field; those of a model are varints or delimited by length."""
    found, place = [], 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = data[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while place < len(data):
        tag = varint()
        size = varint()
        content = b""
        if tag & 7 == 2:
            content = data[place : place + size]
            place += size
        found.append((tag >> 3, content))
    return found


def test_a_runtime_infers_what_is_not_repeated(convolutional: ModelGraph) -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=32)})
    made = compress(convolutional, plan)
    ours, theirs = made.to_bytes(), ir.to_proto(made.model).SerializeToString()
    assert len(ours) < len(theirs)
    (spec,) = made.input_specs
    sample = RNG.normal(size=[size or 2 for size in spec.shape]).astype(np.float32)
    outputs = [
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {spec.name: sample})
        for data in (ours, theirs)
    ]
    for mine, other in zip(*outputs, strict=True):
        np.testing.assert_array_equal(mine, other)
