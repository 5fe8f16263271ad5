"""Recurrent layers are kept whole: both of their weights can be stored in fewer bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.compress.apply import compress
from autocompress.compress.legal import legality
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.core.target import Precision
from autocompress.graph.executor import GraphModule
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph

X = np.random.default_rng(0).normal(size=(3, 7, 16)).astype(np.float32)
STORED = [
    LayerPlan(weight_bits=16),
    LayerPlan(weight_bits=16, float_type="bfloat16"),
    LayerPlan(weight_bits=8),
    LayerPlan(weight_bits=8, granularity="tensor"),
    LayerPlan(weight_bits=6),
    LayerPlan(weight_bits=4, symmetric=False),
    LayerPlan(weight_bits=4, granularity="block"),
    LayerPlan(weight_bits=4, format="codebook"),
    LayerPlan(weight_bits=3),
    LayerPlan(weight_bits=2),
]


class Steps(nn.Module):
    """One recurrent layer, both ways, and what it writes at each step."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.cells = kind(16, 32, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cells(x)[0]


@pytest.fixture(scope="module", params=[nn.LSTM, nn.GRU], ids=lambda kind: kind.__name__)
def recurrent(request: pytest.FixtureRequest) -> ModelGraph:
    torch.manual_seed(0)
    return load_model(Steps(request.param).eval(), (torch.from_numpy(X),))


def test_it_is_one_layer_with_all_of_its_parameters(recurrent: ModelGraph) -> None:
    (layer,) = recurrent.layers()
    gates = {"LSTM": 4, "GRU": 3}[layer.op_type]
    weights = 2 * gates * 32 * (16 + 32)
    assert layer.params == weights + 2 * 2 * gates * 32
    assert layer.macs == 7 * weights
    assert layer.prune_group is None


@pytest.mark.parametrize("plan", STORED, ids=lambda plan: plan.label)
def test_both_weights_are_stored(plan: LayerPlan, recurrent: ModelGraph, run_graph: Any, fused: Any) -> None:
    made = compress(recurrent, CompressionPlan(layers={"*": plan}))
    kept = recurrent.layers()[0].params * plan.weight_bits / 8
    assert made.size_bytes() < kept + 14000
    assert made.size_bytes() < recurrent.size_bytes()
    wanted = run_graph(recurrent, X)
    limit = {2: 1.0, 3: 0.3, 4: 0.15}.get(plan.weight_bits, 0.05)
    assert np.square(run_graph(made, X) - wanted).mean() < limit * wanted.var()
    # All that unpacks the weights is done at load.
    assert fused(made) == fused(recurrent)


@pytest.mark.parametrize("plan", STORED, ids=lambda plan: plan.label)
def test_torch_computes_and_trains_the_same(plan: LayerPlan, recurrent: ModelGraph, run_graph: Any) -> None:
    made = compress(recurrent, CompressionPlan(layers={"*": plan}))
    module = GraphModule(made)
    found = module(torch.from_numpy(X))
    np.testing.assert_allclose(found.detach().numpy(), run_graph(made, X), rtol=1e-3, atol=1e-4)
    found.square().sum().backward()
    trained = [p for p in module.parameters() if p.ndim >= 2]
    assert len(trained) >= 2
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    assert made.with_weights(module).to_bytes() == made.to_bytes()


def test_it_computes_in_float32(recurrent: ModelGraph) -> None:
    (name,) = legality(recurrent)
    reasons = legality(recurrent)[name]
    refused = {precision for precision, reason in reasons.items() if reason is not None}
    assert refused == {Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT4, Precision.INT2}
    with pytest.raises(PlanError, match="is kept whole: its weights can be stored in fewer bits"):
        compress(recurrent, CompressionPlan(layers={name: LayerPlan(weight_bits=16, activation_bits=16)}))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (LayerPlan(rank=RankPlan(ratio=0.5)), "there is no decomposition of"),
        (LayerPlan(sparsity=SparsityPlan()), "a recurrent layer is kept whole"),
    ],
)
def test_it_is_neither_taken_apart_nor_thinned(plan: LayerPlan, reason: str, recurrent: ModelGraph) -> None:
    (layer,) = recurrent.layers()
    assert compress(recurrent, CompressionPlan(layers={"*": plan})).digest == recurrent.digest
    with pytest.raises(PlanError, match=reason):
        compress(recurrent, CompressionPlan(layers={layer.name: plan}))
