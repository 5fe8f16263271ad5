"""Prices of kernels that unpack weights or find ranges at every inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import outline
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.cost.roofline import Roofline
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import load_target

DYNAMIC = LayerPlan(weight_bits=8, activation_bits=8, dynamic=True)
AVX2 = load_target("x86-avx2")


def ms(graph: ModelGraph, plan: LayerPlan, **more: Any) -> float:
    wanted = CompressionPlan(layers={"*": plan}, **more)
    return Roofline(AVX2, AVX2.runtime()).estimate(*outline(Compressor(graph), wanted)).value


def exported(module: torch.nn.Module, *shape: int) -> ModelGraph:
    torch.manual_seed(0)
    return load_model(module.eval(), (torch.zeros(*shape),))


@pytest.fixture(scope="module")
def linear() -> ModelGraph:
    return exported(
        torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.ReLU(), torch.nn.Linear(768, 768)), 1, 1, 768
    )


@pytest.fixture(scope="module")
def conv() -> ModelGraph:
    return exported(torch.nn.Conv2d(64, 64, 3, padding=1), 1, 64, 28, 28)


def test_packed_weights_cost_what_unpacking_them_takes(linear: ModelGraph) -> None:
    """Measured on an AVX2 core: 1.7 of float32's time in 4 bits, 17 in 8."""
    whole = ms(linear, LayerPlan())
    four, eight = (ms(linear, LayerPlan(weight_bits=bits, granularity="block")) / whole for bits in (4, 8))
    assert 0.5 < four < 3
    assert 5 < eight < 40


def test_a_channels_scale_is_unpacked_at_load(linear: ModelGraph) -> None:
    assert ms(linear, LayerPlan(weight_bits=4)) == pytest.approx(ms(linear, LayerPlan()))


def test_convolutions_in_blocks_are_unpacked_at_load(conv: ModelGraph) -> None:
    assert ms(conv, LayerPlan(weight_bits=4, granularity="block")) == pytest.approx(ms(conv, LayerPlan()))


def test_dynamic_ranges_cost_as_measured(linear: ModelGraph, conv: ModelGraph) -> None:
    assert 0.2 < ms(linear, DYNAMIC) / ms(linear, LayerPlan()) < 0.9
    assert 3 < ms(conv, DYNAMIC) / ms(conv, LayerPlan()) < 6


def test_dynamic_ranges_are_refused_where_nothing_is_known_of_them(conv: ModelGraph) -> None:
    target = load_target("nvidia-a100")
    with pytest.raises(PlanError, match="finds its ranges at run time, which is priced for ONNX Runtime only"):
        Roofline(target, target.runtime()).estimate(conv, CompressionPlan(layers={"*": DYNAMIC}))


class Tied(torch.nn.Module):
    """One linear layer applied twice, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(256, 256), torch.nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(torch.relu(self.a(x)))))


def test_a_shared_weight_is_priced_as_the_float32_layer_that_it_stays() -> None:
    graph = exported(Tied(), 1, 256)
    int8 = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
    shaped, rest = outline(Compressor(graph), int8)
    found = {op.name: op.precision.value for op in Roofline(AVX2, AVX2.runtime()).estimate_layers(shaped, rest)}
    layers = {layer.name for layer in graph.layers()}
    kept = {name for name, precision in found.items() if precision == "fp32" and name in layers}
    assert len(kept) == 2
    assert found["b"] == "int8"
    compressed = Compressor(graph).layer_plans(int8)
    assert set(compressed) == {"b"}


def test_pruned_layers_unpack_less(linear: ModelGraph) -> None:
    eight = LayerPlan(weight_bits=8, granularity="block")
    assert ms(linear, eight, prune={"*": 0.5}) == pytest.approx(ms(linear, eight) / 2, rel=0.2)
    assert np.isfinite(ms(linear, eight))
