"""What a plan makes of a graph, without data: exact bytes and shapes."""

from pathlib import Path

import numpy as np
import pytest

from autocompress.compress.apply import Compressor, compress
from autocompress.compress.outline import file_bytes, outline
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.zoo.mobilenet_v3 import mobilenet_v3_tiny
from autocompress.zoo.resnet import resnet20
from autocompress.zoo.vit import vit_tiny

NETS = {"resnet20": (resnet20, 32), "mobilenet_v3": (mobilenet_v3_tiny, 32), "vit": (vit_tiny, 16)}
INT8 = {"weight_bits": 8, "activation_bits": 8}
LAYERS = {
    "rank": LayerPlan(rank=RankPlan(ratio=0.25)),
    "rank by energy": LayerPlan(rank=RankPlan(energy=0.8)),
    "rank and int8": LayerPlan(rank=RankPlan(ratio=0.25), **INT8),
    "2:4": LayerPlan(sparsity=SparsityPlan(pattern="n:m")),
    "sparse file": LayerPlan(sparsity=SparsityPlan(ratio=0.9, storage="sparse")),
    "sparse blocks": LayerPlan(sparsity=SparsityPlan(pattern="block", ratio=0.9, storage="sparse")),
    "rank and sparse": LayerPlan(rank=RankPlan(ratio=0.25), sparsity=SparsityPlan(ratio=0.9, storage="sparse")),
    "int8": LayerPlan(**INT8),
    "6 bits": LayerPlan(weight_bits=6, activation_bits=8),
    "3 bits": LayerPlan(weight_bits=3),
    "blocks": LayerPlan(weight_bits=4, granularity="block"),
    "codebook": LayerPlan(weight_bits=4, format="codebook"),
}


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest) -> ModelGraph:
    import torch

    torch.manual_seed(0)
    make, side = NETS[request.param]
    return load_model(make().eval(), (np.zeros((2, 3, side, side), np.float32),))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_predicted_bytes_are_those_of_the_file(net: ModelGraph, kind: str, ratio: float, tmp_path: Path) -> None:
    plan = CompressionPlan(layers={"*": LAYERS[kind]}, prune={"*": ratio} if ratio else {})
    data = ArrayDataset(
        [np.random.default_rng(0).normal(size=(8, 3, *net.input_specs[0].shape[2:])).astype(np.float32)]
    )
    compress(net, plan, dataset=data).save(tmp_path / "model.onnx")
    assert file_bytes(Compressor(net), plan) == pytest.approx((tmp_path / "model.onnx").stat().st_size, rel=0.002)


def test_factors_have_the_precision_of_their_layer(net: ModelGraph) -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(rank=RankPlan(ratio=0.25), **INT8)}, prune={"*": 0.5})
    shaped, rest = outline(Compressor(net), plan)
    assert not rest.ranks
    assert not rest.prune
    assert shaped.macs() < net.macs()
    assert any(layer.name.endswith(".1") for layer in shaped.layers())
    assert all(rest.layer(layer.name).weight_bits == 8 for layer in shaped.layers())


def test_a_plan_without_ranks_needs_no_other_graph(net: ModelGraph) -> None:
    plan = CompressionPlan(prune={"*": 0.5})
    assert outline(Compressor(net), plan) == (net, plan)
