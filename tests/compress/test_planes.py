"""3- and 6-bit weights take their own bits in the file, and the runtime's kernel for 8 bits."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autocompress.compress.calibrate import Calibration, calibrate
from autocompress.compress.planes import in_planes, stored_bytes
from autocompress.compress.quantize import quantize
from autocompress.core.plan import LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph

Fused = Callable[[ModelGraph], Counter[str]]
Run = Callable[[ModelGraph, Any], Any]


@pytest.fixture
def wide(net: Any) -> ModelGraph:
    """Two convolutions, large enough for planes."""
    made = net(32, 8, 8)
    made.node("Relu", [made.conv("x", "a", 64, 32, kernel_shape=[3, 3])], "a_relu")
    made.node("Relu", [made.conv("a_relu", "b", 64, 64, kernel_shape=[3, 3])], "b_relu")
    graph: ModelGraph = made.graph("b_relu")
    return graph


def ranges(graph: ModelGraph) -> Calibration:
    data = np.random.default_rng(0).standard_normal((8, 32, 8, 8), dtype=np.float32)
    return calibrate(graph, ArrayDataset([data]), samples=8)


def everywhere(graph: ModelGraph, plan: LayerPlan) -> dict[str, LayerPlan]:
    return {layer.name: plan for layer in graph.layers()}


@pytest.mark.parametrize("bits", [3, 6])
@pytest.mark.parametrize("activations", [8, 32])
def test_the_file_holds_as_many_bits_as_the_plan_asks_for(wide: ModelGraph, bits: int, activations: int) -> None:
    made = quantize(wide, everywhere(wide, LayerPlan(weight_bits=bits, activation_bits=activations)), ranges(wide))
    weights = sum(int(np.prod(layer.weight_shape)) for layer in wide.layers())
    assert made.size_bytes() < weights * bits / 8 + 8000
    assert weights * bits / 8 == sum(stored_bytes(int(np.prod(layer.weight_shape)), bits) for layer in wide.layers())


@pytest.mark.parametrize("bits", [3, 6])
def test_integer_layers_run_in_the_kernel_of_int8(wide: ModelGraph, bits: int, fused: Fused) -> None:
    made = quantize(wide, everywhere(wide, LayerPlan(weight_bits=bits, activation_bits=8)), ranges(wide))
    found = fused(made)
    assert found["QLinearConv"] == 2
    assert not found["BitShift"]


@pytest.mark.parametrize("bits", [3, 6])
def test_the_numbers_are_those_of_wider_storage(
    wide: ModelGraph, bits: int, run_graph: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 8, 8), dtype=np.float32)
    plans = everywhere(wide, LayerPlan(weight_bits=bits))
    packed = run_graph(quantize(wide, plans, None), x)
    monkeypatch.setattr("autocompress.compress.planes._JOINING_BYTES", 10**9)
    np.testing.assert_array_equal(packed, run_graph(quantize(wide, plans, None), x))


@pytest.mark.parametrize("bits", [3, 6])
def test_torch_runs_them_too(wide: ModelGraph, bits: int, run_graph: Run) -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 8, 8), dtype=np.float32)
    made = quantize(wide, everywhere(wide, LayerPlan(weight_bits=bits)), None)
    with torch.no_grad():
        found = made.to_torch()(torch.from_numpy(x))
    found = found[0] if isinstance(found, tuple) else found
    np.testing.assert_allclose(found.numpy(), run_graph(made, x), rtol=1e-4, atol=1e-5)


def test_small_weights_stay_in_a_type_of_onnx() -> None:
    assert not in_planes(1000, 3)
    assert not in_planes(10**6 + 1, 3)
    assert not in_planes(10**6, 4)


def test_an_artifact_that_is_read_again_stays_packed(wide: ModelGraph, tmp_path: Path) -> None:
    made = quantize(wide, everywhere(wide, LayerPlan(weight_bits=6)), None)
    made.save(tmp_path / "packed.onnx")
    assert load_model(tmp_path / "packed.onnx").size_bytes() < made.size_bytes() * 1.1
