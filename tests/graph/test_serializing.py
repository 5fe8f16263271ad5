"""Bytes of a model: what is written reads back, and what is counted is what is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.graph.serializing import (
    densify,
    digest,
    has_sparse,
    mark_sparse,
    to_bytes,
    to_skeleton,
    write_external,
)

RNG = np.random.default_rng(0)


def model_of(**arrays: NDArray[Any]) -> ir.Model:
    """The sum of its weights' products with the input, as far as anybody cares: nothing runs it."""
    nodes = [helper.make_node("Identity", [name], [f"y_{name}"], name=f"n_{name}") for name in arrays]
    graph = helper.make_graph(
        nodes,
        "net",
        [],
        [helper.make_empty_tensor_value_info(f"y_{name}") for name in arrays],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def arrays_of(proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=3), st.sampled_from([1, 100, 1000, 10**6]))
def test_a_file_is_as_large_as_counted_from_its_skeleton(lengths: list[int], least: int) -> None:
    model = model_of(**{f"w{i}": np.arange(length, dtype=np.float32) for i, length in enumerate(lengths)})
    assert to_skeleton(model, least).file_bytes == len(to_bytes(model))


def test_the_digest_depends_on_every_number_and_on_nothing_else() -> None:
    array = RNG.normal(size=(30, 30)).astype(np.float32)
    other = array.copy()
    other[17, 3] = np.nextafter(other[17, 3], np.float32(9))
    same, again, changed = (digest(to_skeleton(model_of(w=a), 100)) for a in (array, array.copy("F"), other))
    assert same == again
    assert same != changed
    assert len(same) == 16


@pytest.mark.parametrize("shape", [(40,), (5, 8), (2, 4, 5)])
def test_a_sparse_initializer_reads_back_as_it_was(shape: tuple[int, ...]) -> None:
    array = np.where(RNG.random(shape) < 0.2, RNG.normal(size=shape), 0).astype(np.float32)
    model = model_of(w=array, v=np.ones(3, np.float32))
    assert not has_sparse(model)
    mark_sparse(model.graph.initializers["w"])
    assert has_sparse(model)
    proto = onnx.load_from_string(to_bytes(model))
    (sparse,) = proto.graph.sparse_initializer
    assert list(sparse.values.dims) == [np.count_nonzero(array)]
    densify(proto)
    np.testing.assert_array_equal(arrays_of(proto)["w"], array)
    assert len(proto.graph.sparse_initializer) == 0


def test_sparse_indices_may_have_a_column_for_each_axis() -> None:
    values = numpy_helper.from_array(np.float32([5, 6]), "w")
    places = numpy_helper.from_array(np.array([[0, 2], [1, 1]]), "p")
    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=places, dims=[2, 3]))
    proto = helper.make_model(graph)
    densify(proto)
    np.testing.assert_array_equal(arrays_of(proto)["w"], [[0, 0, 5], [0, 6, 0]])


def test_weights_beside_the_model_start_at_pages_and_read_back(tmp_path: Path) -> None:
    arrays = {
        "a": RNG.normal(size=(50, 33)).astype(np.float32),
        "b": RNG.normal(size=(700,)).astype(np.float64),
        "small": np.arange(3),
        "c": RNG.integers(-9, 9, (2000,)).astype(np.int8),
    }
    with (tmp_path / "m.onnx").open("wb") as model, (tmp_path / "m.data").open("wb") as data:
        write_external(model_of(**arrays), model, data, "m.data")
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    outside = {t.name: {e.key: e.value for e in t.external_data} for t in bare.graph.initializer if t.external_data}
    assert set(outside) == {"a", "b", "c"}
    assert all(int(entry["offset"]) % 4096 == 0 for entry in outside.values())
    for name, array in arrays_of(onnx.load(tmp_path / "m.onnx")).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_packed_weights_beside_the_model_keep_their_bytes() -> None:
    packed = helper.make_tensor("w", TensorProto.INT4, [4000], RNG.integers(-8, 8, 4000))
    graph = helper.make_graph([], "g", [], [], [packed])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    data = io.BytesIO()
    write_external(model, io.BytesIO(), data, "d")
    assert data.getvalue() == packed.raw_data or len(data.getvalue()) == 2000
