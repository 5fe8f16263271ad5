"""TVM against ONNX Runtime on the same files, through one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from autocompress.core.errors import CandidateError, ModelError
from autocompress.core.measurement import TimingPolicy
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.measure.runtimes.tvm import TvmRuntime
from autocompress.measure.runtimes.tvm_tuning import Tuning

pytest.importorskip("tvm")
SHORT = TimingPolicy(block_ms=4.0, max_seconds=0.3, warmup_seconds=0.02)


@pytest.fixture(scope="module")
def runtime() -> Iterator[TvmRuntime]:
    made = TvmRuntime()
    yield made
    made.close()


def test_outputs_are_those_of_onnx_runtime(
    runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], images: np.ndarray
) -> None:
    graph = conv_graph()
    (found,) = runtime.build(graph).run((images,))
    (expected,) = OnnxRuntime().build(graph).run((images,))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_timing_is_paired_and_of_one_sample(runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph]) -> None:
    graph = conv_graph()
    timing = runtime.time(runtime.build(graph), runtime.build(graph), SHORT)
    assert len(timing.candidate_ms) == len(timing.reference_ms) > 0
    assert timing.details["sample_shapes"] == [[1, 3, 6, 6]]


def test_models_are_compiled_again_after_a_crash(
    runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], images: np.ndarray
) -> None:
    artifact = runtime.build(conv_graph())
    (before,) = artifact.run((images[:1],))
    assert runtime.worker.pid is not None
    os.kill(runtime.worker.pid, signal.SIGKILL)
    with pytest.raises(CandidateError, match="SIGKILL"):
        runtime.worker.ask("hello")
    (after,) = artifact.run((images[:1],))
    np.testing.assert_array_equal(before, after)


def test_an_unknown_operator_is_named_with_its_node(runtime: TvmRuntime, node_model: Callable[..., bytes]) -> None:
    model = node_model("StringNormalizer", {"x": (TensorProto.FLOAT, [1, 2])})
    with pytest.raises(CandidateError, match="cannot import operator StringNormalizer"):
        runtime.build(model)


def test_a_missing_file_is_told(runtime: TvmRuntime, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model file"):
        runtime.build(tmp_path / "none.onnx")


def test_bytes_that_are_no_model_are_told(runtime: TvmRuntime) -> None:
    with pytest.raises(ModelError, match="is not an ONNX model"):
        runtime.build(b"nothing")


def test_tuned_kernels_are_kept_and_cost_nothing_the_second_time(
    runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], images: np.ndarray, tmp_path: Path
) -> None:
    asked: list[str] = []
    tuned = TvmRuntime(worker=runtime.worker, tuning=Tuning(trials=2), schedules=tmp_path, on_kernel=asked.append)
    untouched = tuned.describe()
    first = tuned.build(conv_graph())
    # What was measured with other schedules is never taken for this.
    assert tuned.describe() != untouched
    assert first.schedules["untuned"] == 0
    assert first.schedules["tuned"] == len(first.told["kernels"]) == len(set(asked))
    asked.clear()
    second = tuned.build(conv_graph(gain=2.0))
    assert asked == []
    assert second.told["compiled"] == 0
    assert second.schedules == first.schedules
    np.testing.assert_allclose(first.run((images,))[0], OnnxRuntime().build(conv_graph()).run((images,))[0], atol=1e-4)
    with pytest.raises(CandidateError, match=r"untuned .* cannot be compared"):
        tuned.time(runtime.build(conv_graph()), first, SHORT)


def test_a_spent_budget_leaves_kernels_untuned(
    runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], tmp_path: Path
) -> None:
    spent = TvmRuntime(worker=runtime.worker, tuning=Tuning(trials=2, seconds=0.0), schedules=tmp_path)
    found = spent.build(conv_graph()).schedules
    assert found["untuned"] > 0
    assert found["tuned"] == 0


def test_a_kernel_that_kills_the_worker_while_it_is_tuned_is_left_untuned(
    runtime: TvmRuntime, conv_graph: Callable[..., ModelGraph], tmp_path: Path
) -> None:
    killed: list[str] = []

    def kill_once(kernel: str) -> None:
        if not killed and "conv2d" in kernel:
            killed.append(kernel)
            assert runtime.worker.pid is not None
            os.kill(runtime.worker.pid, signal.SIGSEGV)

    tuned = TvmRuntime(worker=runtime.worker, tuning=Tuning(trials=2), schedules=tmp_path, on_kernel=kill_once)
    found = tuned.build(conv_graph()).told["kernels"]
    assert [kernel["origin"] for kernel in found if kernel["name"] == killed[0]] == ["untuned"]
    assert {kernel["origin"] for kernel in found if kernel["name"] != killed[0]} == {"tuned"}
