"""Rules of layers and elementwise operators: which channels leave together, as a partition written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from autocompress.graph.channel_rules import follow
from autocompress.graph.channel_tracker import POSITIONS, ChannelTracker
from autocompress.graph.model_graph import ModelGraph

node = helper.make_node
FLOAT = TensorProto.FLOAT
SIX = [0, 1, 2, 3, 4, 5]
PAIRS = [0, 1, 2, 0, 1, 2]

#: A node on ``x`` ``(2, 6, 8, 8)``; its weights; for ``x`` and some weights' axes the unit that each entry belongs to.
Case = tuple[NodeProto, dict[str, tuple[int, ...]], dict[tuple[str, int], list[int]]]
CASES: dict[str, Case] = {
    "Conv": (node("Conv", ["x", "w"], ["y"]), {"w": (3, 6, 3, 3)}, {("x", 1): SIX, ("w", 1): SIX, ("y", 1): [6, 7, 8]}),
    "grouped Conv": (
        node("Conv", ["x", "w", "b"], ["y"], group=2),
        {"w": (4, 3, 3, 3), "b": (4,)},
        {("x", 1): PAIRS, ("w", 1): [0, 1, 2], ("y", 1): [6, 7, 6, 7], ("w", 0): [6, 7, 6, 7], ("b", 0): [6, 7, 6, 7]},
    ),
    "depthwise Conv, two each": (
        node("Conv", ["x", "w"], ["y"], group=6),
        {"w": (12, 1, 3, 3)},
        {("x", 1): SIX, ("y", 1): [c // 2 for c in range(12)]},
    ),
    "ConvTranspose": (
        node("ConvTranspose", ["x", "w"], ["y"]),
        {"w": (6, 3, 2, 2)},
        {("x", 1): SIX, ("w", 0): SIX, ("y", 1): [6, 7, 8], ("w", 1): [6, 7, 8]},
    ),
    "grouped ConvTranspose": (
        node("ConvTranspose", ["x", "w"], ["y"], group=2),
        {"w": (6, 2, 2, 2)},
        {("x", 1): PAIRS, ("y", 1): [6, 7, 6, 7]},
    ),
    "BatchNormalization": (
        node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"]),
        dict.fromkeys("sbmv", (6,)),
        {("x", 1): SIX, **dict.fromkeys([(name, 0) for name in "sbmv"], SIX), ("y", 1): SIX},
    ),
    "Add of one number a channel": (node("Add", ["x", "b"], ["y"]), {"b": (6, 1, 1)}, {("x", 1): SIX, ("b", 0): SIX}),
    "Add of one number in all": (node("Add", ["x", "b"], ["y"]), {"b": (1, 1, 1)}, {("x", 1): SIX, ("y", 1): SIX}),
    "Where": (node("Where", ["c", "x", "b"], ["y"]), {"b": (6, 8, 8), "c": (6, 1, 1)}, {("x", 1): SIX, ("c", 0): SIX}),
    "PRelu": (node("PRelu", ["x", "p"], ["y"]), {"p": (6, 1, 1)}, {("x", 1): SIX, ("p", 0): SIX}),
    "MaxPool": (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), {}, {("x", 1): SIX, ("y", 1): SIX}),
}


def followed(case: Case, write: Any) -> tuple[ModelGraph, ChannelTracker]:
    item, weights, _ = case
    rng = np.random.default_rng(0)
    arrays = {n: rng.uniform(1, 2, shape).astype(bool if n == "c" else np.float32) for n, shape in weights.items()}
    graph: ModelGraph = write([item], arrays, {"x": (FLOAT, [2, 6, 8, 8])}, {"y": FLOAT})
    tracker = ChannelTracker()
    tracker.set_axes(graph.values["x"], (POSITIONS, tracker.new_ids(6), POSITIONS, POSITIONS))
    for each in graph.model.graph:
        follow(tracker, each)
    return graph, tracker


@pytest.mark.parametrize("name", CASES)
def test_channels_leave_together_as_the_operator_needs_it(name: str, write: Any) -> None:
    graph, tracker = followed(CASES[name], write)
    units, reasons = tracker.units()
    wanted = CASES[name][2]
    found = np.concatenate([units[tracker.axes(graph.values[value])[axis]] for value, axis in wanted])  # type: ignore[index]
    numbers = np.concatenate(list(wanted.values()))
    np.testing.assert_array_equal(found[:, None] == found, numbers[:, None] == numbers)
    assert not set(found.tolist()) & set(reasons)


BLOCKED: dict[str, tuple[Case, str]] = {
    "LayerNormalization": (
        (node("LayerNormalization", ["x", "s"], ["y"], axis=1), {"s": (6, 8, 8)}, {}),
        "is normalized over by LayerNormalization",
    ),
    "Softmax over channels": ((node("Softmax", ["x"], ["y"], axis=1), {}, {}), "is mixed by Softmax"),
    "ReduceMean over all": ((node("ReduceMean", ["x"], ["y"], keepdims=0), {}, {}), "is reduced by ReduceMean"),
    "ArgMax": ((node("ArgMax", ["x"], ["y"], axis=1), {}, {}), "is reduced by ArgMax"),
    "an operator without a rule": ((node("CumSum", ["x", "n"], ["y"]), {"n": ()}, {}), "CumSum 'node', which"),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_what_mixes_channels_blocks_them_and_is_named(name: str, write: Any) -> None:
    case, reason = BLOCKED[name]
    if name.startswith("an operator"):
        graph: ModelGraph = write(
            [node("CumSum", ["x", "n"], ["y"])], {"n": np.array(1)}, {"x": (FLOAT, [2, 6, 8, 8])}, {"y": FLOAT}
        )
        tracker = ChannelTracker()
        tracker.set_axes(graph.values["x"], (POSITIONS, tracker.new_ids(6), POSITIONS, POSITIONS))
        for each in graph.model.graph:
            follow(tracker, each)
    else:
        graph, tracker = followed(case, write)
    units, reasons = tracker.units()
    ids: Any = tracker.axes(graph.values["x"])[1]
    assert all(reason in reasons[unit] for unit in units[ids].tolist())


def test_a_weight_that_is_computed_is_not_followed(write: Any) -> None:
    graph: ModelGraph = write(
        [node("Conv", ["x", "k"], ["y"])],
        {},
        {"x": (FLOAT, [2, 6, 8, 8]), "k": (FLOAT, [3, 6, 3, 3])},
        {"y": FLOAT},
    )
    tracker = ChannelTracker()
    tracker.set_axes(graph.values["x"], (POSITIONS, tracker.new_ids(6), POSITIONS, POSITIONS))
    for each in graph.model.graph:
        follow(tracker, each)
    _, reasons = tracker.units()
    assert all("has a weight that is computed at run time" in reason for reason in reasons.values()) and reasons
