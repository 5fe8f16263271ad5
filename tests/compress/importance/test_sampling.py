"""Which samples importance looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from autocompress.compress.importance.sampling import drawn_batches, size_for
from autocompress.core.errors import DataError
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize


def graph_of(*shape: Any) -> ModelGraph:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="n")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ModelGraph(normalize(ir.from_proto(model)))


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_samples_are_drawn_once_each_and_read_in_order(samples: Any) -> None:
    data = samples(np.zeros((50, 4), np.float32))
    sizes = [len(inputs[0]) for inputs, _ in drawn_batches(graph_of("batch", 4), data, rng(), 20, 8)]
    assert sizes == [8, 8, 4]
    assert data.read == sorted(set(data.read)) and len(data.read) == 20
    again = samples(data.images)
    list(drawn_batches(graph_of("batch", 4), again, rng(), 20, 8))
    assert again.read == data.read


def test_there_are_no_more_samples_than_the_data_has(samples: Any) -> None:
    data = samples(np.zeros((5, 4), np.float32))
    list(drawn_batches(graph_of("batch", 4), data, rng(), 20))
    assert data.read == [0, 1, 2, 3, 4]


def test_a_fixed_batch_is_filled_or_left_out(samples: Any) -> None:
    data = samples(np.zeros((50, 4), np.float32))
    sizes = [len(inputs[0]) for inputs, _ in drawn_batches(graph_of(6, 4), data, rng(), 20, 8)]
    assert sizes == [6, 6, 6]
    sizes = [len(inputs[0]) for inputs, _ in drawn_batches(graph_of(6, 4), data, rng(), 2)]
    assert sizes == [6]


def test_too_little_data_is_said(samples: Any) -> None:
    with pytest.raises(DataError, match="Importance needs data, but 'samples' is empty"):
        next(drawn_batches(graph_of("batch", 4), samples(np.zeros((0, 4))), rng(), 8))
    with pytest.raises(DataError, match="takes batches of 6, but there are only 5 samples"):
        next(drawn_batches(graph_of(6, 4), samples(np.zeros((5, 4))), rng(), 8))


def test_large_values_make_small_batches() -> None:
    assert size_for(graph_of("batch", 4), ["y"]) == 16
    assert size_for(graph_of("batch", 1 << 25), ["y"]) == 2
    assert size_for(graph_of("batch", 1 << 28), ["y"]) == 1
