"""A pruned model starts from the schedules of the whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autocompress.compress.prune import prune
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.tvm import Tuning, TvmRuntime


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
