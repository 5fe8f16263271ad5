"""A pruned model starts from the schedules of the whole one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from autocompress.compress.prune import prune
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.tvm import TvmRuntime
from autocompress.measure.runtimes.tvm_tuning import Tuning


@pytest.mark.slow
def test_pruned_shapes_take_over_their_neighbours_schedules(
    tvm_runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], images: np.ndarray, tmp_path: Path
) -> None:
    graph = conv_graph()
    asked: list[str] = []
    runtime = TvmRuntime(worker=tvm_runtime.worker, tuning=Tuning(trials=2), schedules=tmp_path, on_kernel=asked.append)
    runtime.build(graph)
    asked.clear()
    (group,) = (group for group in graph.groups() if not group.blocked)
    pruned = prune(graph, {group.name: np.arange(6)})
    artifact = runtime.build(pruned)
    assert artifact.schedules["transferred"] > 0
    assert artifact.schedules["untuned"] == 0
    moved = [kernel for kernel in artifact.told["kernels"] if kernel["origin"] == "transferred"]
    # Tuning tells of each batch of schedules, taking over tells once.
    assert all(asked.count(kernel["name"]) == 1 for kernel in moved if "conv2d" in kernel["name"])
    (found,), (expected,) = artifact.run((images,)), OnnxRuntime().build(pruned).run((images,))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_equal_kernels_share_a_schedule_where_their_stages_are_called_otherwise(
    tvm_runtime: TvmRuntime, tmp_path: Path
) -> None:
    asked: list[str] = []
    runtime = TvmRuntime(worker=tvm_runtime.worker, tuning=Tuning(trials=2), schedules=tmp_path, on_kernel=asked.append)
    runtime.build(_pooling(0))
    assert "mean" in asked
    asked.clear()
    model = _pooling(3)
    artifact = runtime.build(model)
    assert "mean" not in asked
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(artifact.run((x,))[0], OnnxRuntime().build(model).run((x,))[0], atol=1e-5)


def _pooling(before: int) -> bytes:
    """A pooling network; TVM names stages by what stands before them."""
    names = ["x", *(f"t{number}" for number in range(before))]
    nodes = [helper.make_node("Tanh", [a], [b]) for a, b in itertools.pairwise(names)]
    nodes += [
        helper.make_node("MaxPool", [names[-1]], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["m"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())
