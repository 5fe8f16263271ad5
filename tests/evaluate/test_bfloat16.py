"""What computes in bfloat16 is run in torch; all else in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from autocompress.compress.apply import compress
from autocompress.core.errors import ModelError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.target import Precision
from autocompress.evaluate.bfloat16 import QualityRuntime, TorchModel, computes_in_bfloat16
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.measure.runtimes.onnxruntime import OrtArtifact

X = np.random.default_rng(0).normal(size=(3, 1, 28, 28)).astype(np.float32)


@pytest.fixture(scope="module")
def demo() -> ModelGraph:
    return load_graph("demo")


def in_precision(demo: ModelGraph, plan: LayerPlan) -> ModelGraph:
    return compress(demo, CompressionPlan(layers={"*": plan}))


def test_bfloat16_runs_in_torch_from_memory_and_file(demo: ModelGraph, tmp_path: Path) -> None:
    graph = in_precision(demo, Precision.BF16.layer_plan)
    graph.save(tmp_path / "net.onnx")
    onnx.checker.check_model(tmp_path / "net.onnx")
    runtime = QualityRuntime(threads=1)
    found = [runtime.build(source) for source in (graph, tmp_path / "net.onnx")]
    assert all(isinstance(model, TorchModel) for model in found)
    first, second = (model.run((X,))[0] for model in found)
    np.testing.assert_array_equal(first, second)
    wanted = runtime.build(demo).run((X,))[0]
    error = np.abs(first - wanted).max() / np.abs(wanted).max()
    # It is bfloat16, with 8 binary digits, and not float32.
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize(
    "plan", [LayerPlan(), LayerPlan(weight_bits=16, float_type="bfloat16")], ids=["fp32", "stored"]
)
def test_all_else_runs_in_onnx_runtime(demo: ModelGraph, plan: LayerPlan) -> None:
    graph = in_precision(demo, plan)
    assert not computes_in_bfloat16(graph)
    assert isinstance(QualityRuntime(threads=1).build(graph), OrtArtifact)


def test_a_file_that_is_no_model_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match=r"net\.onnx"):
        QualityRuntime(threads=1).build(tmp_path / "net.onnx")
