"""Sizes that exporters compute at run time become constants where they do not depend on the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from autocompress.graph.model_graph import ModelGraph

Write = Callable[..., ModelGraph]
FLOAT = TensorProto.FLOAT
node = helper.make_node


def operators(graph: ModelGraph) -> Counter[str]:
    return Counter(item.op_type for item in graph.model.graph)


def reshaped_by(nodes: list[onnx.NodeProto], write: Write, **constants: Any) -> ModelGraph:
    """``x``, ``(n, 6, 4)``, reshaped to what the nodes compute as ``target`` of its shape ``s``."""
    numbers = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "three": np.array([3]), **constants}
    return write(
        [node("Shape", ["x"], ["s"]), *nodes, node("Reshape", ["x", "target"], ["y"])],
        numbers,
        {"x": (FLOAT, ("n", 6, 4))},
        {"y": FLOAT},
    )


def size(index: str, name: str) -> onnx.NodeProto:
    return node("Gather", ["s", index], [name])


def test_a_target_of_the_batch_and_numbers_is_constant(write: Write) -> None:
    nodes = [
        size("zero", "n"), size("one", "c"), size("two", "d"), node("Div", ["c", "three"], ["g"]),
        node("Concat", ["n", "three", "g", "d"], ["target"], axis=0),
    ]  # fmt: skip
    graph = reshaped_by(nodes, write)
    assert operators(graph) == {"Reshape": 1}
    assert graph.value_shape("y") == (None, 3, 2, 4)
    assert graph.initializers[graph.model.graph[0].inputs[1].name or ""].tolist() == [-1, 3, 2, 4]


def test_a_batch_that_is_multiplied_is_what_is_left(write: Write, run_onnx: Any, noise: Any) -> None:
    nodes = [
        size("zero", "n"), size("one", "c"), size("two", "d"), node("Mul", ["n", "c"], ["rows"]),
        node("Concat", ["rows", "d"], ["target"], axis=0),
    ]  # fmt: skip
    graph = reshaped_by(nodes, write)
    assert operators(graph) == {"Reshape": 1}
    (x,) = noise(graph)
    np.testing.assert_array_equal(run_onnx(graph, [x])[0], x.reshape(18, 4))


def test_a_target_with_the_batch_twice_stays_computed(write: Write) -> None:
    nodes = [
        size("zero", "n"), node("Mul", ["n", "four"], ["rows"]),
        node("Concat", ["rows", "n", "rest"], ["target"], axis=0),
    ]  # fmt: skip
    graph = reshaped_by(nodes, write, four=np.array([4]), rest=np.array([-1]))
    assert operators(graph)["Shape"] == 1


def test_a_size_that_depends_on_the_batch_stays_computed(write: Write, run_onnx: Any) -> None:
    graph = write(
        [node("Shape", ["x"], ["s"], end=1), node("Cast", ["s"], ["n"], to=FLOAT), node("Mul", ["x", "n"], ["y"])],
        {},
        {"x": (FLOAT, ("n", 3))},
        {"y": FLOAT},
    )
    for count in (1, 2, 5):
        np.testing.assert_array_equal(run_onnx(graph, [np.ones((count, 3), np.float32)])[0], np.full((count, 3), count))


def test_a_number_that_follows_from_fixed_sizes_is_constant(write: Write) -> None:
    graph = write(
        [node("Shape", ["x"], ["s"], start=1), node("Cast", ["s"], ["c"], to=FLOAT), node("Mul", ["x", "c"], ["y"])],
        {},
        {"x": (FLOAT, ("n", 3))},
        {"y": FLOAT},
    )
    assert operators(graph) == {"Mul": 1}


def test_a_second_open_size_stays_open(write: Write) -> None:
    graph = write(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "two"], ["d"]),
            node("Gather", ["s", "one"], ["t"]),
            node("Concat", ["minus", "t", "d"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
        ],
        {"one": np.array([1]), "two": np.array([2]), "minus": np.array([-1])},
        {"x": (FLOAT, ("n", "t", 4))},
        {"y": FLOAT},
    )
    assert operators(graph)["Shape"] == 1
    assert graph.value_shape("y") in {(None, None, 4), (None, None, None)}
