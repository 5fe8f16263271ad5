"""Sizes as plain numbers: the values that ONNX Runtime computes as tensors, and no tensor on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper

from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.operator_node import OperatorNode

node = helper.make_node
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
ARRAYS = {
    "zero": np.array([0]),
    "one": np.array(1),
    "two": np.array([2]),
    "minus": np.array([-1]),
    "three": np.array([3]),
    "both": np.array([1, 0]),
    "flat": np.array([-1]),
}

#: Steps from ``s``, the shape of ``x`` ``(batch, 6, 4)``, to a size or several, ``r``.
CHAINS: dict[str, list[NodeProto]] = {
    "picked": [node("Gather", ["s", "one"], ["n"]), node("Unsqueeze", ["n", "zero"], ["r"])],
    "picked several": [node("Gather", ["s", "both"], ["r"])],
    "product": [node("Mul", ["s", "two"], ["r"])],
    "sum and difference": [node("Add", ["s", "three"], ["a"]), node("Sub", ["a", "one"], ["r"])],
    "quotient towards zero": [node("Mul", ["s", "minus"], ["m"]), node("Div", ["m", "three"], ["r"])],
    "put together": [
        node("Gather", ["s", "one"], ["n"]),
        node("Reshape", ["n", "flat"], ["v"]),
        node("Concat", ["two", "v", "s"], ["r"], axis=0),
    ],
    "chosen": [
        node("Equal", ["s", "three"], ["e"]),
        node("Where", ["e", "minus", "s"], ["r"]),
    ],
    "cast": [node("Cast", ["s"], ["r"], to=INT)],
    "a part": [node("Squeeze", ["b", "zero"], ["n"]), node("Unsqueeze", ["n", "zero"], ["r"])],
}


def graph_of(chain: Sequence[NodeProto], after: Sequence[NodeProto], out: int, write: Any) -> ModelGraph:
    nodes = [node("Shape", ["x"], ["s"]), node("Shape", ["x"], ["b"], start=0, end=1), *chain, *after]
    used = {name for item in nodes for name in item.input}
    arrays = {name: array for name, array in ARRAYS.items() if name in used}
    found: ModelGraph = write(nodes, arrays, {"x": (FLOAT, ["batch", 6, 4])}, {"y": out})
    return found


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("batch", [1, 3])
def test_numbers_are_those_of_the_runtime(
    name: str, batch: int, write: Any, run_onnx: Callable[..., Any], noise: Callable[..., Any]
) -> None:
    after = [node("Cast", ["r"], ["y"], to=FLOAT)]
    graph = graph_of(CHAINS[name], after, FLOAT, write)
    inputs = noise(graph, batch=batch)
    (wanted,) = run_onnx(graph, inputs)
    with torch.no_grad():
        found = graph.to_torch()(torch.from_numpy(inputs[0]))
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("name", CHAINS)
def test_no_tensor_is_made_on_the_way(name: str, write: Any, noise: Callable[..., Any]) -> None:
    graph = graph_of(CHAINS[name], [node("Cast", ["r"], ["y"], to=FLOAT)], FLOAT, write)
    made: list[Any] = []

    def after(item: OperatorNode, written: list[Any]) -> None:
        if item.attributes.get("to") != FLOAT:
            made.extend(written)

    graph.to_torch().walk([(torch.from_numpy(noise(graph)[0]),)], after=after)
    assert made and not any(isinstance(value, torch.Tensor) for value in made)


@pytest.mark.parametrize(
    "after",
    [
        [node("Expand", ["two", "r"], ["y"])],
        [node("ConstantOfShape", ["r"], ["y"])],
        [node("Reshape", ["r", "flat"], ["y"])],
        [node("Identity", ["r"], ["y"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_what_reads_sizes_takes_numbers_and_outputs_are_tensors(
    after: list[NodeProto], write: Any, run_onnx: Callable[..., Any], noise: Callable[..., Any]
) -> None:
    out = FLOAT if after[0].op_type == "ConstantOfShape" else INT
    graph = graph_of(CHAINS["product"], after, out, write)
    inputs = noise(graph, batch=2)
    found = graph.to_torch()(torch.from_numpy(inputs[0]))
    np.testing.assert_array_equal(found.numpy(), run_onnx(graph, inputs)[0])


def test_truths_that_are_cast_are_numbers(write: Any, run_onnx: Callable[..., Any], noise: Callable[..., Any]) -> None:
    """A tensor of truths could not be negated."""
    chain = [node("Equal", ["s", "three"], ["e"]), node("Cast", ["e"], ["r"], to=INT)]
    graph = graph_of(chain, [node("Neg", ["r"], ["y"])], INT, write)
    inputs = noise(graph, batch=3)
    found = graph.to_torch()(torch.from_numpy(inputs[0]))
    np.testing.assert_array_equal(found.numpy(), run_onnx(graph, inputs)[0])
