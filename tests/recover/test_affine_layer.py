"""A layer and its BatchNormalization as one affine map, against torch's own operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.operator_node import OperatorNode
from autocompress.recover.affine_layer import AffineLayer
from autocompress.recover.fit_points import fit_points

Net = Callable[..., ModelGraph]
X = torch.from_numpy(np.random.default_rng(5).normal(size=(6, 4, 5, 5)).astype(np.float32))


def layer_of(graph: ModelGraph) -> tuple[GraphModule, AffineLayer]:
    """The graph's only layer that can be fitted."""
    module = GraphModule(graph).eval()
    nodes: dict[str, OperatorNode] = {}
    with torch.no_grad():
        module.walk([(X,)], before=lambda node, read: nodes.setdefault(node.name, node) and None)
        (point,) = fit_points(graph).values()
        return module, AffineLayer(module, point, nodes[point.node])


def convolution(net: Net, groups: int, *, bias: bool, batch_norm: bool) -> ModelGraph:
    rng = np.random.default_rng(groups)
    arrays = {"w": rng.normal(size=(8, 4 // groups, 3, 3))}
    if bias:
        arrays["b"] = rng.normal(size=8)
    nodes = [helper.make_node("Conv", ["x", *arrays], ["c" if batch_norm else "y"], name="n_c", group=groups)]
    if batch_norm:
        vectors = {"scale": rng.uniform(0.5, 2, 8), "shift": rng.normal(size=8), "mean": rng.normal(size=8)}
        vectors["var"] = rng.uniform(0.5, 2, 8)
        nodes.append(helper.make_node("BatchNormalization", ["c", *vectors], ["y"], name="n_y", epsilon=1e-3))
        arrays |= vectors
    return net(nodes, {name: array.astype(np.float32) for name, array in arrays.items()}, {"x": [6, 4, 5, 5]})


def maps(layer: AffineLayer, groups: int) -> Tensor:
    """What the affine map gives, by torch's convolution of the weight put back in order."""
    weight = layer.weight.reshape(8, 3, 3, 4 // groups).permute(0, 3, 1, 2)
    return F.conv2d(X, weight, layer.bias.reshape(-1), groups=groups)


CASES = pytest.mark.parametrize(
    ("groups", "bias", "batch_norm"), [(1, True, True), (2, False, True), (4, True, True), (1, True, False)]
)


@CASES
def test_it_is_what_the_layer_and_its_normalization_do(groups: int, bias: bool, batch_norm: bool, net: Net) -> None:
    module, layer = layer_of(convolution(net, groups, bias=bias, batch_norm=batch_norm))
    with torch.no_grad():
        torch.testing.assert_close(maps(layer, groups), module(X), rtol=1e-4, atol=1e-4)


@CASES
def test_what_replaces_it_is_what_the_layer_does_then(groups: int, bias: bool, batch_norm: bool, net: Net) -> None:
    graph = convolution(net, groups, bias=bias, batch_norm=batch_norm)
    module, layer = layer_of(graph)
    generator = torch.Generator().manual_seed(0)
    weight, shift = (torch.randn(x.shape, generator=generator) for x in (layer.weight, layer.bias))
    with torch.no_grad():
        inner = F.conv2d(X, weight.reshape(8, 3, 3, 4 // groups).permute(0, 3, 1, 2), groups=groups)
        flat = inner.transpose(0, 1).flatten(1)
        moments: tuple[Any, Any] = flat.mean(1).reshape(groups, -1), flat.var(1, unbiased=False).reshape(groups, -1)
        layer.replace(weight, shift, lambda _: moments)
        torch.testing.assert_close(module(X), inner + shift.reshape(-1, 1, 1), rtol=1e-3, atol=1e-3)
        if not batch_norm:
            return
        stored = module.initializer("w")
        lengths = torch.from_numpy(np.array(graph.initializers["w"])).flatten(1).norm(dim=1)
        torch.testing.assert_close(stored.flatten(1).norm(dim=1), lengths)
        given = F.conv2d(X, stored, module.initializer("b") if bias else None, groups=groups)
        given = given.transpose(0, 1).flatten(1)
        torch.testing.assert_close(module.initializer("mean"), given.mean(1), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(module.initializer("var"), given.var(1, unbiased=False), rtol=1e-3, atol=1e-3)


def test_a_channel_without_weights_has_no_length_to_keep(net: Net) -> None:
    graph = convolution(net, 1, bias=False, batch_norm=True)
    weight = np.array(graph.initializers["w"])
    weight[3] = 0
    module, layer = layer_of(graph.with_initializers({"w": weight}))
    wanted = torch.ones_like(layer.weight)
    with torch.no_grad():
        layer.replace(wanted, layer.bias, lambda w: (w.sum(2), torch.ones(w.shape[:2])))
        torch.testing.assert_close(module.initializer("w")[3], torch.ones(4, 3, 3))
