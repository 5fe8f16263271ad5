"""Which axis a Reshape hands its channels to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from autocompress.graph.channel_lookahead import best_axis

node = helper.make_node
HEADS_FIRST = [0, 2, 1, 3]

#: What reads ``(2, 5, 4, 8)``, heads of numbers or groups of channels, and the axis that should be pruned.
READERS: dict[str, tuple[list[NodeProto], dict[str, Any], int]] = {
    "nothing mixes either": ([node("Relu", ["x"], ["y"])], {}, 3),
    "numbers are normalized": ([node("Softmax", ["x"], ["y"], axis=-1)], {}, 2),
    "heads are normalized": ([node("Softmax", ["x"], ["y"], axis=2)], {}, 3),
    "numbers are summed": ([node("ReduceSum", ["x", "a"], ["y"])], {"a": np.array([3])}, 2),
    "heads are cut": ([node("Split", ["x"], ["y", "z"], axis=2, num_outputs=2)], {}, 3),
    "attention": (
        [
            node("Transpose", ["x"], ["q"], perm=HEADS_FIRST),
            node("Transpose", ["other"], ["k"], perm=[0, 2, 3, 1]),
            node("MatMul", ["q", "k"], ["y"]),
        ],
        {},
        2,
    ),
    "attention by Einsum": ([node("Einsum", ["x", "other"], ["y"], equation="bqhd,bkhd->bhqk")], {}, 2),
    "a shuffle": (
        [
            node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
            node("Reshape", ["t", "s"], ["y"]),
        ],
        {"s": np.array([2, 5, 32])},
        3,
    ),
    "a layer multiplies the numbers": ([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((8, 3), np.float32)}, 3),
    "far behind elementwise steps": (
        [
            node("Mul", ["x", "other"], ["m"]),
            node("Transpose", ["m"], ["t"], perm=[3, 0, 1, 2]),
            node("Relu", ["t"], ["r"]),
            node("LogSoftmax", ["r"], ["y"], axis=0),
        ],
        {},
        2,
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_the_axis_is_one_that_no_reader_mixes(name: str, write: Any) -> None:
    nodes, arrays, wanted = READERS[name]
    shape = (TensorProto.FLOAT, [2, 5, 4, 8])
    graph = write(nodes, arrays, {"x": shape, "other": shape}, {"y": TensorProto.FLOAT})
    assert best_axis(graph.values["x"], [2, 3]) == wanted
