"""Operators that move entries: fed with the ids of its channels, an operator gives the ids that analysis says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from autocompress.graph.channel_rules import follow
from autocompress.graph.channel_tracker import POSITIONS, ChannelTracker
from autocompress.graph.model_graph import ModelGraph

node = helper.make_node
INT = TensorProto.INT64
#: ``(batch, 12, 4, 4)``, channels on axis 1.
SHAPE = [2, 12, 4, 4]
Case = tuple[NodeProto, dict[str, Any]]


def ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


CASES: dict[str, Case] = {
    "Transpose": (node("Transpose", ["x"], ["y"], perm=[3, 1, 0, 2]), {}),
    "Transpose, last": (node("Transpose", ["x"], ["y"]), {}),
    "Unsqueeze": (node("Unsqueeze", ["x", "a"], ["y"]), {"a": ints(1, -1)}),
    "Concat of itself": (node("Concat", ["x", "x"], ["y"], axis=1), {}),
    "Concat along positions": (node("Concat", ["x", "x"], ["y"], axis=2), {}),
    "Split, first part": (node("Split", ["x", "s"], ["y", "z"], axis=1), {"s": ints(5, 7)}),
    "Split, second part": (node("Split", ["x", "s"], ["z", "y"], axis=-3), {"s": ints(5, 7)}),
    "Slice": (node("Slice", ["x", "s", "e", "a"], ["y"]), {"s": ints(2), "e": ints(-3), "a": ints(1)}),
    "Slice of positions": (node("Slice", ["x", "s", "e", "a"], ["y"]), {"s": ints(1), "e": ints(3), "a": ints(3)}),
    "Pad of positions": (node("Pad", ["x", "p"], ["y"]), {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "Tile of positions": (node("Tile", ["x", "n"], ["y"]), {"n": ints(1, 1, 2, 3)}),
    "Gather of positions": (node("Gather", ["x", "i"], ["y"], axis=2), {"i": ints(3, 0, 1)}),
    "flattened positions": (node("Reshape", ["x", "s"], ["y"]), {"s": ints(2, 12, 16)}),
    "flattened channels": (node("Reshape", ["x", "s"], ["y"]), {"s": ints(2, 192)}),
    "Flatten": (node("Flatten", ["x"], ["y"], axis=1), {}),
    "groups": (node("Reshape", ["x", "s"], ["y"]), {"s": ints(2, 3, 4, 4, 4)}),
    "DepthToSpace": (node("DepthToSpace", ["x"], ["y"], blocksize=2), {}),
    "DepthToSpace, channels first": (node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD"), {}),
    "SpaceToDepth": (node("SpaceToDepth", ["x"], ["y"], blocksize=2), {}),
}


def followed(case: Case, write: Any) -> tuple[ModelGraph, ChannelTracker, NDArray[np.intp]]:
    item, arrays = case
    graph: ModelGraph = write([item], arrays, {"x": (INT, SHAPE)}, {"y": INT})
    tracker = ChannelTracker()
    ids = tracker.new_ids(SHAPE[1])
    tracker.set_axes(graph.values["x"], (POSITIONS, ids, POSITIONS, POSITIONS))
    for each in graph.model.graph:
        follow(tracker, each)
    return graph, tracker, ids


@pytest.mark.parametrize("name", CASES)
def test_an_entry_of_the_result_is_the_channel_that_analysis_says(name: str, write: Any) -> None:
    graph, tracker, ids = followed(CASES[name], write)
    entries = np.broadcast_to(ids[:, None, None], SHAPE).astype(np.int64)
    output: Any = ReferenceEvaluator(graph.to_bytes()).run(["y"], {"x": entries})[0]
    axes = tracker.axes(graph.values["y"])
    (where,) = (axis for axis, said in enumerate(axes) if not isinstance(said, str))
    units, reasons = tracker.units()
    said = np.asarray(axes[where]).reshape([-1 if axis == where else 1 for axis in range(output.ndim)])
    assert not set(reasons) & set(units[ids].tolist())
    if name.startswith("Pad"):
        output = output[:, :, 1:-1, 1:-1]
    np.testing.assert_array_equal(units[output], np.broadcast_to(units[said], output.shape))


BLOCKED: dict[str, tuple[Case, str]] = {
    "Slice with a step": (
        (node("Slice", ["x", "s", "e", "a", "t"], ["y"]), {"s": ints(0), "e": ints(9), "a": ints(1), "t": ints(2)}),
        "is changed by Slice",
    ),
    "Slice backwards": (
        (node("Slice", ["x", "s", "e", "a", "t"], ["y"]), {"s": ints(9), "e": ints(0), "a": ints(1), "t": ints(-1)}),
        "runs backwards",
    ),
    "Tile of channels": ((node("Tile", ["x", "n"], ["y"]), {"n": ints(1, 2, 1, 1)}), "is changed by Tile"),
    "Gather of channels": ((node("Gather", ["x", "i"], ["y"], axis=1), {"i": ints(3, 0)}), "is picked from by Gather"),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_channels_that_cannot_be_followed_stay_and_it_is_said_why(name: str, write: Any) -> None:
    case, reason = BLOCKED[name]
    _, tracker, ids = followed(case, write)
    units, reasons = tracker.units()
    assert all(reason in reasons.get(unit, "") for unit in units[ids].tolist())


def test_channels_that_a_reshape_strings_together_with_the_batch_leave_together(write: Any) -> None:
    """``(2, 12, ...)`` to ``(8, 3, ...)``: an entry of the second axis holds every third channel."""
    _, tracker, ids = followed((node("Reshape", ["x", "s"], ["y"]), {"s": ints(8, 3, 16)}), write)
    units, reasons = tracker.units()
    np.testing.assert_array_equal(units[ids].reshape(4, 3), np.tile(units[ids[:3]], (4, 1)))
    assert len(np.unique(units[ids])) == 3 and not reasons
