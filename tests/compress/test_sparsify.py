"""Graphs with zeros: from the plan through healing and int8 to the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from autocompress.compress.apply import Compressor
from autocompress.compress.sparsify import sparsity_masks
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.staged import StagedHealing

X = np.random.default_rng(0).normal(size=(64, 8, 6, 6)).astype(np.float32)
HALF = SparsityPlan(ratio=0.5)


@pytest.fixture(scope="module")
def net() -> ModelGraph:
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return load_model(nn.Sequential(*layers).eval(), (torch.from_numpy(X[:2]),))


def _plan(
    sparsity: SparsityPlan, *, layer: str = "*", bits: tuple[int, int] = (32, 32), **more: object
) -> CompressionPlan:
    made = LayerPlan(weight_bits=bits[0], activation_bits=bits[1], sparsity=sparsity)
    return CompressionPlan(layers={layer: made}, **more)  # type: ignore[arg-type]


def _zeros(graph: ModelGraph) -> dict[str, float]:
    return {x.name: float(np.mean(graph.initializers[x.weight] == 0)) for x in graph.layers()}


@pytest.mark.parametrize(
    "sparsity", [HALF, SparsityPlan(pattern="block", ratio=0.5, block_rows=2), SparsityPlan(pattern="n:m")]
)
def test_every_layer_loses_half_of_its_weights(net: ModelGraph, sparsity: SparsityPlan) -> None:
    found = _zeros(Compressor(net).pruned(_plan(sparsity)))
    assert found == pytest.approx(dict.fromkeys(found, 0.5), abs=0.02)


def test_neighbours_of_n_of_m_lie_along_the_inputs_of_a_matrix_product_too() -> None:
    """ONNX keeps a MatMul's weight as ``(in, out)``; what skips zeros reads four inputs at a time."""
    torch.manual_seed(0)
    net = load_model(nn.Sequential(nn.Linear(8, 12), nn.ReLU()).eval(), (torch.zeros(2, 3, 8),))
    graph = Compressor(net).pruned(_plan(SparsityPlan(pattern="n:m")))
    (layer,) = graph.layers()
    assert (layer.op_type, layer.weight_shape) == ("MatMul", (8, 12))
    assert ((graph.initializers[layer.weight] != 0).reshape(2, 4, 12).sum(1) == 2).all()


def test_only_the_named_layer_is_touched(net: ModelGraph) -> None:
    name = net.layers()[1].name
    found = _zeros(Compressor(net).pruned(_plan(HALF, layer=name)))
    assert [value for key, value in found.items() if key != name] == [0.0] * (len(found) - 1)
    assert found[name] == 0.5


def test_what_is_left_is_what_was_there(net: ModelGraph) -> None:
    sparse = Compressor(net).pruned(_plan(HALF))
    for layer in net.layers():
        before, after = net.initializers[layer.weight], sparse.initializers[layer.weight]
        np.testing.assert_array_equal(after[after != 0], before[after != 0])


def test_healing_keeps_the_zeros_and_moves_the_rest(net: ModelGraph) -> None:
    plan = _plan(HALF, distillation=DistillationPlan(steps=4, batch_size=32))
    sparse = Compressor(net).pruned(plan)
    healed = StagedHealing(net, ArrayDataset([X]), threads=1).heal(sparse, plan)
    for weight, mask in sparsity_masks(sparse, plan).items():
        assert not healed.initializers[weight][~mask].any()
        assert (healed.initializers[weight][mask] != sparse.initializers[weight][mask]).any()


def test_zeros_survive_int8(net: ModelGraph) -> None:
    compressor = Compressor(net, dataset=ArrayDataset([X]))
    plan = _plan(HALF, bits=(8, 8))
    graph = compressor.finish(compressor.pruned(plan), plan)
    integers = [array for array in graph.initializers.values() if array.dtype == np.int8 and array.ndim > 1]
    assert integers
    assert all(np.mean(array == 0) >= 0.5 for array in integers)


def test_a_sparse_file_holds_values_and_places_and_runs_the_same(net: ModelGraph, tmp_path: Path) -> None:
    compressor = Compressor(net)
    dense = compressor.finish(compressor.pruned(_plan(SparsityPlan(ratio=0.9))), _plan(SparsityPlan(ratio=0.9)))
    plan = _plan(SparsityPlan(ratio=0.9, storage="sparse"))
    sparse = compressor.finish(compressor.pruned(plan), plan)
    dense.save(tmp_path / "dense.onnx")
    sparse.save(tmp_path / "sparse.onnx")
    proto = onnx.load(tmp_path / "sparse.onnx")
    onnx.checker.check_model(proto)
    assert len(proto.graph.sparse_initializer) == 3
    assert sparse.size_bytes() == (tmp_path / "sparse.onnx").stat().st_size < (tmp_path / "dense.onnx").stat().st_size
    outputs = [
        ort.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {net.input_names[0]: X})[0]
        for name in ("dense.onnx", "sparse.onnx")
    ]
    np.testing.assert_array_equal(*outputs)


def test_a_sparse_file_is_read_back_whole(net: ModelGraph, tmp_path: Path) -> None:
    compressor = Compressor(net)
    plan = _plan(SparsityPlan(ratio=0.9, storage="sparse"))
    graph = compressor.finish(compressor.pruned(plan), plan)
    graph.save(tmp_path / "sparse.onnx")
    again = load_model(tmp_path / "sparse.onnx")
    for name, array in graph.initializers.items():
        np.testing.assert_array_equal(again.initializers[name], array)


def test_plans_read_back_and_digests_of_others_do_not_change() -> None:
    plan = _plan(SparsityPlan(pattern="n:m", n=1, m=8, storage="sparse"), layer="conv")
    assert CompressionPlan.from_json(plan.to_json()) == plan
    assert plan.digest != _plan(SparsityPlan(pattern="n:m"), layer="conv").digest
    assert plan.structure_digest != CompressionPlan().structure_digest
    assert "sparsity" not in CompressionPlan(layers={"*": LayerPlan(weight_bits=8)}).to_json()


def test_bits_alone_do_not_change_the_structure() -> None:
    assert _plan(HALF).structure_digest == _plan(HALF, bits=(8, 8)).structure_digest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pattern": "2:4"}, "pattern"),
        ({"ratio": 1.0}, "ratio"),
        ({"pattern": "n:m", "n": 4, "m": 4}, "0 < n < m"),
        ({"ratoi": 0.5}, "did you mean 'ratio'"),
        ({"ratio": "half"}, "must be float"),
        ({"storage": "zip"}, "storage"),
    ],
)
def test_malformed_sparsity_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        CompressionPlan.from_dict({"layers": {"*": {"sparsity": given}}})
