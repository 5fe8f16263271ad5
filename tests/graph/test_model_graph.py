from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from autocompress.core.errors import ModelError, UnknownNameError
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.zoo.resnet import resnet20


def image_batch(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(n, 1, 28, 28)).astype(np.float32)


def run(model: bytes, x: NDArray[np.float32], options: onnxruntime.SessionOptions | None = None) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    torch.manual_seed(0)
    return load_model(resnet20(in_channels=1), (torch.zeros(2, 1, 28, 28),))


def with_tensor(graph: ModelGraph, name: str, tensor: ir.TensorProtocol) -> ModelGraph:
    copy = graph.clone()
    copy.model.graph.initializers[name].const_value = tensor
    return copy


def test_layers_carry_the_parameters_names(graph: ModelGraph) -> None:
    names = [layer.name for layer in graph.layers()]
    assert names[:2] == ["conv1", "layer1.0.conv1"]
    assert names[-1] == "fc"
    assert len(names) == 22


def test_macs_of_one_convolution_are_positions_times_weights(graph: ModelGraph) -> None:
    first = graph.layers()[0]
    assert first.macs == 28 * 28 * 16 * 9


def test_macs_of_resnet20(graph: ModelGraph) -> None:
    assert graph.macs() == sum(layer.macs for layer in graph.layers()) == 31_021_952


def test_layers_say_shape_and_parameters_of_one_sample(graph: ModelGraph) -> None:
    last = graph.layers()[-1]
    assert (last.out_shape, last.weight_shape, last.params) == ((1, 10), (10, 64), 650)


def test_a_clone_shares_the_memory_of_weights(graph: ModelGraph) -> None:
    assert np.shares_memory(graph.clone().initializers["fc.weight"], graph.initializers["fc.weight"])


def test_a_clone_keeps_its_structure_to_itself(graph: ModelGraph) -> None:
    graph.clone().model.graph.initializers["fc.weight"].name = "renamed"
    assert "fc.weight" in graph.initializers


def test_replaced_initializers_change_the_outputs_of_the_copy_only(graph: ModelGraph) -> None:
    changed = graph.with_initializers({"fc.bias": np.arange(10, dtype=np.float32)})
    x = image_batch(2)
    before = run(graph.to_bytes(), x)
    np.testing.assert_allclose(
        run(changed.to_bytes(), x), before - graph.initializers["fc.bias"] + np.arange(10), atol=1e-4
    )


def test_an_unknown_initializer_gets_the_nearest_name(graph: ModelGraph) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'fc\.bias'"):
        graph.with_initializers({"fc.bais": np.zeros(10, np.float32)})


def test_a_scalar_initializer_stays_a_scalar(graph: ModelGraph) -> None:
    scalar = graph.with_initializers({"fc.bias": np.array(1.5, np.float32)})
    assert scalar.initializers["fc.bias"].shape == ()


def test_size_is_that_of_the_saved_file(graph: ModelGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "model.onnx")
    assert graph.size_bytes() == (tmp_path / "model.onnx").stat().st_size


@pytest.mark.parametrize("elements", [1, 63, 64, 126, 127, 128, 4096, 600_000])
def test_size_is_exact_for_any_length_of_a_weight(graph: ModelGraph, elements: int) -> None:
    resized = graph.with_initializers({"fc.bias": np.zeros(elements, np.float32)})
    assert resized.size_bytes() == len(resized.to_bytes())


def test_a_folder_that_is_not_there_is_named(graph: ModelGraph, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        graph.save(tmp_path / "nowhere" / "model.onnx")


def test_a_skeleton_with_its_arrays_runs_like_the_model(graph: ModelGraph) -> None:
    skeleton, arrays = graph.skeleton()
    options = onnxruntime.SessionOptions()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    x = image_batch(3)
    np.testing.assert_array_equal(run(skeleton, x, options), run(graph.to_bytes(), x))


def test_a_skeleton_holds_no_large_weight(graph: ModelGraph) -> None:
    skeleton, arrays = graph.skeleton()
    assert len(skeleton) < graph.size_bytes() / 10
    assert all(array.nbytes >= 256 for array in arrays.values())


def test_the_arrays_of_a_skeleton_are_not_copied(graph: ModelGraph) -> None:
    _, arrays = graph.skeleton()
    assert all(np.shares_memory(array, graph.initializers[name]) for name, array in arrays.items())


@pytest.mark.parametrize("kind", ["int4", "int2"])
def test_packed_initializers_read_as_small_integers(graph: ModelGraph, kind: str) -> None:
    packed = np.array([0, 1, 0, -1, -2, 1, 0, 1, -1, 0], dtype=getattr(ml_dtypes, kind))
    changed = with_tensor(graph, "fc.bias", ir.tensor(packed, name="fc.bias"))
    np.testing.assert_array_equal(changed.initializers["fc.bias"].astype(int), packed.astype(int))


def test_initializers_are_decoded_once(graph: ModelGraph) -> None:
    assert graph.initializers["conv1.weight"] is graph.initializers["conv1.weight"]


def test_the_digest_is_the_same_for_a_clone(graph: ModelGraph) -> None:
    assert graph.clone().digest == graph.digest


def test_the_digest_changes_with_one_weight(graph: ModelGraph) -> None:
    weight = graph.initializers["conv1.weight"].copy()
    weight[0, 0, 0, 0] += 1
    assert graph.with_initializers({"conv1.weight": weight}).digest != graph.digest


def test_the_digest_changes_with_a_packed_weight(graph: ModelGraph) -> None:
    digests = {
        with_tensor(graph, "fc.bias", ir.tensor(np.full(10, value, ml_dtypes.int4), name="fc.bias")).digest
        for value in (1, 2)
    }
    assert len(digests) == 2


def test_the_digest_is_the_same_in_another_process(graph: ModelGraph, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph.save(path)
    code = f"from autocompress.graph.importing import load_model; print(load_model({str(path)!r}).digest)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == graph.digest


def test_reading_a_graph_does_not_load_torch() -> None:
    code = "import sys, autocompress.graph.model_graph, autocompress.graph.importing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_weights_go_to_torch_and_back(graph: ModelGraph) -> None:
    module = graph.to_torch()
    assert graph.with_weights(module).digest == graph.digest


def test_weights_of_another_module_are_refused(graph: ModelGraph) -> None:
    with pytest.raises(ModelError, match="was not made by"):
        graph.with_weights(torch.nn.Linear(2, 2))


def test_value_shapes_leave_the_batch_open(graph: ModelGraph) -> None:
    assert graph.value_shape("output") == (None, 10)


def test_an_unknown_value_has_no_shape(graph: ModelGraph) -> None:
    assert graph.value_shape("nothing") is None
