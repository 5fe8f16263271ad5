"""Products: which entry of the input multiplies which entry of the weight, and which entry of the output it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper

from autocompress.graph.channel_rules import follow
from autocompress.graph.channel_tracker import POSITIONS, Axis, ChannelTracker
from autocompress.graph.model_graph import ModelGraph

node = helper.make_node
FLOAT = TensorProto.FLOAT

#: A product of ``x`` with a weight, their shapes, the channels of ``x``, and the weight's axes: read from, and made.
WEIGHTED: dict[str, tuple[NodeProto, list[int], list[int], int, int, int]] = {
    "Gemm": (node("Gemm", ["x", "w"], ["y"]), [2, 6], [6, 5], 1, 0, 1),
    "Gemm, transposed": (node("Gemm", ["x", "w"], ["y"], transB=1), [2, 6], [5, 6], 1, 1, 0),
    "Gemm, both transposed": (node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), [6, 2], [5, 6], 0, 1, 0),
    "MatMul": (node("MatMul", ["x", "w"], ["y"]), [2, 3, 6], [6, 5], 2, 0, 1),
    "MatMul, weight first": (node("MatMul", ["w", "x"], ["y"]), [2, 6, 3], [5, 6], 1, 1, 0),
    "Einsum": (node("Einsum", ["x", "w"], ["y"], equation="btc,co->bto"), [2, 3, 6], [6, 5], 2, 0, 1),
}


def followed(
    item: NodeProto, shapes: dict[str, list[int]], arrays: dict[str, Any], write: Any, channels: dict[str, int]
) -> tuple[ModelGraph, ChannelTracker, dict[str, Any]]:
    """The graph, the tracker behind its only node, and the ids of each input's channels."""
    graph: ModelGraph = write([item], arrays, {n: (FLOAT, s) for n, s in shapes.items()}, {"y": FLOAT})
    tracker = ChannelTracker()
    ids = {name: tracker.new_ids(shapes[name][axis]) for name, axis in channels.items()}
    for name, shape in shapes.items():
        axes: list[Axis] = [POSITIONS] * len(shape)
        if name in channels:
            axes[channels[name]] = ids[name]
        tracker.set_axes(graph.values[name], axes)
    for each in graph.model.graph:
        follow(tracker, each)
    return graph, tracker, ids


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_is_coupled_to_what_it_reads_and_gives_what_it_makes(name: str, write: Any) -> None:
    item, shape, weight, channels, into, out = WEIGHTED[name]
    rng = np.random.default_rng(0)
    array = rng.normal(size=weight).astype(np.float32)
    graph, tracker, ids = followed(item, {"x": shape}, {"w": array}, write, {"x": channels})
    units, _ = tracker.units()
    read, made = (tracker.axes(graph.values["w"])[axis] for axis in (into, out))
    np.testing.assert_array_equal(units[ids["x"]], units[read])
    (where,) = (a for a, said in enumerate(tracker.axes(graph.values["y"])) if not isinstance(said, str))
    np.testing.assert_array_equal(units[tracker.axes(graph.values["y"])[where]], units[made])  # type: ignore[index]
    # As numbers: without an input channel and its entries of the weight nothing else changes.
    x = rng.normal(size=shape).astype(np.float32)
    x.swapaxes(0, channels)[2] = 0
    less = np.delete(array, 2, into)
    module = graph.to_torch()
    with torch.no_grad():
        whole = module(torch.from_numpy(x)).numpy()
        graph, *_ = followed(
            item, {"x": [n - (a == channels) for a, n in enumerate(shape)]}, {"w": less}, write, {"x": channels}
        )
        part = graph.to_torch()(torch.from_numpy(np.delete(x, 2, channels))).numpy()
    np.testing.assert_allclose(part, whole, rtol=1e-5, atol=1e-6)


def test_a_product_of_two_values_sums_over_one_axis_and_hands_on_the_others(write: Any) -> None:
    shapes = {"x": [2, 4, 3, 6], "z": [2, 4, 6, 5]}
    item = node("MatMul", ["x", "z"], ["y"])
    graph, tracker, ids = followed(item, shapes, {}, write, {"x": 1, "z": 1})
    units, reasons = tracker.units()
    np.testing.assert_array_equal(units[ids["x"]], units[ids["z"]])
    np.testing.assert_array_equal(tracker.axes(graph.values["y"])[1], ids["x"])
    assert not reasons
    _, tracker, ids = followed(item, shapes, {}, write, {"x": 3, "z": 2})
    units, reasons = tracker.units()
    assert all("is summed over by MatMul" in reasons[unit] for unit in units[np.concatenate([*ids.values()])].tolist())


def test_an_equation_with_a_letter_twice_is_not_followed(write: Any) -> None:
    _, tracker, ids = followed(node("Einsum", ["x"], ["y"], equation="bcc->bc"), {"x": [2, 4, 4]}, {}, write, {"x": 1})
    units, reasons = tracker.units()
    assert all("has an equation that is not followed" in reasons[unit] for unit in units[ids["x"]].tolist())
