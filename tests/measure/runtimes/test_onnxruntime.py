"""Real sessions: load, run, time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from autocompress.compress.quantize import quantize
from autocompress.core.errors import CandidateError, DataError, ModelError, UserError
from autocompress.core.measurement import TimingPolicy
from autocompress.core.plan import LayerPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

Graphs = Callable[..., ModelGraph]
Models = Callable[..., bytes]
POLICY = TimingPolicy(block_ms=1.0, half_width=0.1, max_seconds=0.3, min_blocks=4, warmup_seconds=0.02)


@pytest.fixture
def runtime() -> OnnxRuntime:
    return OnnxRuntime()


def test_it_says_what_a_measurement_depends_on() -> None:
    about = OnnxRuntime(threads=2, spinning=False).describe()
    assert (about["name"], about["version"], about["provider"]) == ("onnxruntime", ort.__version__, "cpu")
    assert (about["threads"], about["spinning"]) == (2, False)
    assert about["fingerprint"]


def test_no_threads_are_refused() -> None:
    with pytest.raises(UserError, match="`threads` must be at least 1, but got 0"):
        OnnxRuntime(threads=0)


@pytest.mark.parametrize("plan", [None, LayerPlan(weight_bits=4), LayerPlan(weight_bits=2), LayerPlan(weight_bits=16)])
def test_a_graph_from_memory_gives_the_outputs_of_its_file(
    runtime: OnnxRuntime, conv_graph: Graphs, images: np.ndarray, tmp_path: Path, plan: LayerPlan | None
) -> None:
    graph = conv_graph() if plan is None else quantize(conv_graph(), dict.fromkeys(("a", "fc"), plan), None)
    path = tmp_path / "model.onnx"
    graph.save(path)
    found = [runtime.build(source).run((images,))[0] for source in (graph, path, str(path), graph.to_bytes())]
    assert found[0].shape == (11, 4)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_the_size_is_that_of_the_file(runtime: OnnxRuntime, conv_graph: Graphs, tmp_path: Path) -> None:
    graph, path = conv_graph(), tmp_path / "model.onnx"
    graph.save(path)
    sizes = {runtime.build(source).size_bytes for source in (graph, path, graph.to_bytes())}
    assert sizes == {path.stat().st_size}


@pytest.mark.parametrize("count", [1, 3, 4, 8, 11])
def test_a_fixed_batch_is_run_in_slices(
    runtime: OnnxRuntime, conv_graph: Graphs, images: np.ndarray, count: int
) -> None:
    fixed, free = runtime.build(conv_graph(4)), runtime.build(conv_graph())
    assert (fixed.fixed_batch, free.fixed_batch) == (4, None)
    np.testing.assert_allclose(fixed.run((images[:count],))[0], free.run((images[:count],))[0], rtol=1e-5, atol=1e-6)


def test_no_samples_for_a_fixed_batch_are_refused(runtime: OnnxRuntime, conv_graph: Graphs, images: np.ndarray) -> None:
    with pytest.raises(DataError, match="at least one"):
        runtime.build(conv_graph(4)).run((images[:0],))


def test_inputs_of_a_fixed_batch_must_be_equally_many(runtime: OnnxRuntime, node_model: Models) -> None:
    pair = {name: (TensorProto.FLOAT, [2, 3]) for name in ("a", "b")}
    artifact = runtime.build(node_model("Add", pair))
    ones = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(artifact.run((ones, ones))[0], 2 * ones)
    with pytest.raises(DataError, match=r"equally many samples, at least one, but got \[3, 4\]"):
        artifact.run((ones, ones[:3]))


def test_an_output_without_the_batch_cannot_be_sliced(runtime: OnnxRuntime, node_model: Models) -> None:
    artifact = runtime.build(node_model("Size", {"x": (TensorProto.FLOAT, [2, 3])}, TensorProto.INT64))
    with pytest.raises(CandidateError, match=r"run: output 'y' \(\) has no batch axis of 2"):
        artifact.run((np.ones((4, 3), np.float32),))


@pytest.mark.parametrize("shape", [(2, 3, 6), (2, 1, 6, 6), (2, 3, 6, 7)])
@pytest.mark.parametrize("batch", ["batch", 4])
def test_a_wrong_shape_is_the_datas_fault(
    runtime: OnnxRuntime, conv_graph: Graphs, shape: tuple[int, ...], batch: int | str
) -> None:
    with pytest.raises(DataError, match="but got an array of shape"):
        runtime.build(conv_graph(batch)).run((np.zeros(shape, np.float32),))


def test_a_model_that_fails_while_it_runs_fails_the_candidate(runtime: OnnxRuntime, node_model: Models) -> None:
    model = node_model("Gather", {"table": (TensorProto.FLOAT, ["n", 3]), "at": (TensorProto.INT64, ["m"])})
    artifact = runtime.build(model)
    inputs = (np.zeros((2, 3), np.float32), np.array([7]))
    with pytest.raises(CandidateError, match="run: "):
        artifact.run(inputs)
    with pytest.raises(CandidateError, match=r"run: fails on a sample of shape \(2, 3\), \(1,\)"):
        artifact.bound_call(inputs)


def test_a_file_that_is_missing_is_the_users_mistake(runtime: OnnxRuntime, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no model file '.*gone.onnx'"):
        runtime.build(tmp_path / "gone.onnx")


def test_a_damaged_file_is_the_users_mistake_in_one_line(runtime: OnnxRuntime, linear_file: Path) -> None:
    damaged = linear_file.with_name("damaged.onnx")
    damaged.write_bytes(b"damage" + linear_file.read_bytes())
    with pytest.raises(ModelError, match=r"^'[^']*damaged.onnx' cannot be loaded by ONNX Runtime: [^\n]+\.$"):
        runtime.build(damaged)


def test_damaged_bytes_are_not_repeated_in_the_message(runtime: OnnxRuntime) -> None:
    with pytest.raises(ModelError) as caught:
        runtime.build(b"damage" * 1000)
    assert str(caught.value).startswith("The model cannot be loaded by ONNX Runtime: ")
    assert len(str(caught.value)) < 200


def test_a_graph_that_is_refused_fails_the_candidate(runtime: OnnxRuntime) -> None:
    class Broken:
        def skeleton(self) -> tuple[bytes, dict[str, np.ndarray]]:
            return b"nothing that could be loaded", {}

        def size_bytes(self) -> int:
            return 0

    with pytest.raises(CandidateError, match="build: "):
        runtime.build(Broken())


def test_outputs_that_are_not_finite_are_named(runtime: OnnxRuntime, conv_graph: Graphs, images: np.ndarray) -> None:
    artifact = runtime.build(conv_graph())
    artifact.check_finite(artifact.run((images,)))
    with pytest.raises(CandidateError, match="run: output 'y' holds"):
        artifact.check_finite(artifact.run((np.full_like(images, 3e38),)))


def test_a_sample_is_the_first_one_given_repeated_to_fill_the_batch(
    runtime: OnnxRuntime, conv_graph: Graphs, images: np.ndarray
) -> None:
    (found,) = runtime.build(conv_graph(4)).sample((images,))
    np.testing.assert_array_equal(found, np.repeat(images[:1], 4, axis=0))


def test_without_one_the_sample_is_random_but_always_the_same(runtime: OnnxRuntime, conv_graph: Graphs) -> None:
    artifact = runtime.build(conv_graph())
    (first,), (second,) = artifact.sample(), artifact.sample()
    assert first.shape == (1, 3, 6, 6)
    np.testing.assert_array_equal(first, second)


def test_a_bound_call_runs_again_and_again(runtime: OnnxRuntime, conv_graph: Graphs) -> None:
    artifact = runtime.build(conv_graph())
    call = artifact.bound_call(artifact.sample())
    for _ in range(3):
        call()


def test_a_model_against_itself_is_as_fast(runtime: OnnxRuntime, conv_graph: Graphs) -> None:
    first, second = runtime.build(conv_graph()), runtime.build(conv_graph())
    timing = runtime.time(first, second, POLICY)
    # Neighbours may be busy: only that neither seems twice as fast as its equal is sure.
    assert 0.5 < timing.ratio < 2.0
    assert timing.ratio_interval.low < 2.0 and timing.ratio_interval.high > 0.5
    assert len(timing.candidate_ms) == len(timing.reference_ms) == len(timing.kept)


def test_a_timing_says_how_it_was_made(conv_graph: Graphs, images: np.ndarray) -> None:
    runtime = OnnxRuntime(spinning=False, sample=(images,))
    artifact = runtime.build(conv_graph(2))
    details = runtime.time(artifact, artifact, POLICY).details
    assert (details["threads"], details["spinning"]) == (1, False)
    assert details["sample_shapes"] == [[2, 3, 6, 6]]
    assert details["stopped"] in ("interval", "time")


def test_a_model_stays_on_the_cores_it_was_given(conv_graph: Graphs, images: np.ndarray) -> None:
    core, before = min(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    runtime = OnnxRuntime(affinity=[core], sample=(images[:1],))
    artifact = runtime.build(conv_graph())
    timing = runtime.time(artifact, artifact, POLICY)
    assert (timing.details["affinity"], runtime.describe()["affinity"]) == ([core], [core])
    assert os.sched_getaffinity(0) == before


def test_a_calm_level_of_the_reference_is_remembered(runtime: OnnxRuntime, conv_graph: Graphs) -> None:
    candidate, reference = runtime.build(conv_graph()), runtime.build(conv_graph())
    calm = [runtime.time(candidate, reference, POLICY).details["calm"] for _ in range(3)]
    assert len(reference.calm) == sum(calm)
    assert len(candidate.calm) == 0


def test_a_candidate_that_cannot_run_the_sample_fails(
    runtime: OnnxRuntime, conv_graph: Graphs, node_model: Models
) -> None:
    model = node_model("Gather", {"table": (TensorProto.FLOAT, ["n", 3]), "at": (TensorProto.INT64, [8])})
    with pytest.raises(CandidateError, match="fails on a sample"):
        runtime.time(runtime.build(model), runtime.build(conv_graph()), POLICY)
