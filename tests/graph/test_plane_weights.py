"""Weights of 3 and 6 bits in two planes are one parameter that trains and goes back into its planes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autocompress.compress.calibrate import calibrate
from autocompress.compress.quantize import quantize
from autocompress.core.plan import LayerPlan
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.executor import GraphModule
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, list[NDArray[Any]]], list[NDArray[Any]]]
X = np.random.default_rng(0).standard_normal((4, 16, 8, 8), dtype=np.float32)
KINDS = [
    LayerPlan(weight_bits=bits, activation_bits=activations, **more)
    for bits in (3, 6)
    for activations, more in (
        (8, {}),
        (32, {}),
        (32, {"symmetric": False}),
        (32, {"granularity": "block"}),
        (32, {"format": "codebook"}),
    )
]


@pytest.fixture(scope="module")
def wide() -> ModelGraph:
    """Two convolutions, large enough for planes."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 64, 3))
    return load_model(net.eval(), (torch.from_numpy(X),))


@pytest.fixture(params=KINDS, ids=lambda plan: plan.label)
def kind(request: pytest.FixtureRequest, wide: ModelGraph) -> ModelGraph:
    plan: LayerPlan = request.param
    ranges = calibrate(wide, ArrayDataset([X])) if plan.needs_ranges else None
    made = quantize(wide, {layer.name: plan for layer in wide.layers()}, ranges)
    assert any(node.op_type == "BitShift" for node in made.model.graph)
    return made


def trained(graph: ModelGraph, rate: float = 0.5) -> GraphModule:
    """A few steps towards zeros: large enough for codes to move."""
    module = GraphModule(graph)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    for _ in range(4):
        optimizer.zero_grad()
        module(torch.from_numpy(X)).square().mean().backward()
        optimizer.step()
    return module


def test_torch_runs_none_of_the_joining(kind: ModelGraph) -> None:
    assert not any(step.node.op_type == "BitShift" for step in GraphModule(kind)._program)


def test_untrained_weights_go_back_to_the_byte(kind: ModelGraph) -> None:
    assert kind.with_weights(kind.to_torch()).to_bytes() == kind.to_bytes()


def test_gradients_reach_every_weight(kind: ModelGraph) -> None:
    module = GraphModule(kind)
    module(torch.from_numpy(X)).square().mean().backward()
    found = {name: p for name, p in module.named_initializers().items() if p.requires_grad and p.ndim > 0}
    # Weight and bias of two layers; a table and its scales stand for a weight.
    assert len(found) == (6 if any(name.endswith("_table") for name in found) else 4)
    for name, tensor in found.items():
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name


def test_trained_codes_are_what_onnx_runtime_computes_with(kind: ModelGraph, run_onnx: Run) -> None:
    module = trained(kind)
    shipped = kind.with_weights(module)
    changed = {n for n, array in shipped.initializers.items() if not np.array_equal(array, kind.initializers[n])}
    assert any("_q3" in name or "_q6" in name or name.endswith("_table") for name in changed)
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(X)).numpy()
    (wanted,) = run_onnx(shipped, [X])
    near = np.abs(found - wanted) <= 1e-4 * np.abs(wanted).max()
    # A code that lies between two integers may fall on either side.
    assert near.mean() > 0.99


def test_loss_falls(kind: ModelGraph, run_onnx: Run) -> None:
    before, after = (np.square(run_onnx(g, [X])[0]).mean() for g in (kind, kind.with_weights(trained(kind))))
    assert after < 0.95 * before


def test_codes_stay_within_their_bits(wide: ModelGraph) -> None:
    made = quantize(wide, {layer.name: LayerPlan(weight_bits=3) for layer in wide.layers()}, None)
    module = GraphModule(made)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(100)
    again = GraphModule(made.with_weights(module))
    for codes in again._planes.codes.values():
        assert codes.min() == -3
        assert codes.max() == 3
