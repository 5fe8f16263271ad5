"""One run in ONNX Runtime decides whether a model is sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from autocompress.core.errors import ModelError
from autocompress.graph.running import check_runs, open_session

node = helper.make_node
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
WEIGHT = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def test_weights_handed_over_from_memory_are_those_of_the_graph(write: Any) -> None:
    large = np.random.default_rng(1).normal(size=(700, 500)).astype(np.float32)
    graph = write([node("MatMul", ["x", "w"], ["y"])], {"w": large}, {"x": (FLOAT, ["batch", 700])}, {"y": FLOAT})
    x = np.random.default_rng(2).normal(size=(2, 700)).astype(np.float32)
    (found,) = open_session(graph.model).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ large, rtol=1e-3, atol=1e-3)


def test_a_sound_model_passes_with_examples_and_without(write: Any) -> None:
    graph = write([node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, {"x": (FLOAT, ["batch", 8])}, {"y": FLOAT})
    check_runs(graph)
    check_runs(graph, (np.ones((2, 8), np.float32),))
    check_runs(graph, (np.ones((2, 7), np.float32),))


def test_examples_that_give_nan_are_refused_and_noise_is_not(write: Any) -> None:
    graph = write([node("Sqrt", ["x"], ["y"])], {}, {"x": (FLOAT, ["batch", 4])}, {"y": FLOAT})
    check_runs(graph)
    with pytest.raises(ModelError, match="gives NaN or infinity for the data's first samples"):
        check_runs(graph, (-np.ones((1, 4), np.float32),))


def test_what_fails_at_run_time_is_said_without_the_runtimes_source_lines(write: Any) -> None:
    graph = write(
        [node("Reshape", ["x", "s"], ["y"])], {"s": np.array([5])}, {"x": (FLOAT, ["batch", 4])}, {"y": FLOAT}
    )
    with pytest.raises(ModelError, match="ONNX Runtime cannot run it: ") as caught:
        check_runs(graph)
    assert ".cc" not in str(caught.value) and "\n" not in str(caught.value)


def test_zeros_in_place_of_tokens_tell_nothing_but_examples_do(write: Any) -> None:
    table = {"t": WEIGHT}
    nodes = [node("Sub", ["i", "one"], ["j"]), node("Gather", ["t", "j"], ["y"])]
    graph = write(nodes, {**table, "one": np.array(100)}, {"i": (INT, ["batch", 2])}, {"y": FLOAT})
    check_runs(graph)
    with pytest.raises(ModelError, match="cannot run it"):
        check_runs(graph, (np.array([[0, 1]]),))


def test_a_model_with_open_sizes_is_loaded_and_not_run(write: Any) -> None:
    graph = write(
        [node("Reshape", ["x", "s"], ["y"])], {"s": np.array([5])}, {"x": (FLOAT, ["n", "time"])}, {"y": FLOAT}
    )
    check_runs(graph)
