"""What layers read, against windows cut by hand and the layers' own outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from autocompress.compress import layer_inputs
from autocompress.compress.layer_inputs import input_products, input_rows
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]


def test_products_are_those_of_a_convolution_s_windows(net: Any) -> None:
    made = net(4, 7, 7)
    made.conv("x", "a", 6, 2, group=2, strides=[2, 2], dilations=[2, 2])
    graph = made.graph("a")
    x = np.random.default_rng(0).normal(size=(5, 4, 7, 7)).astype(np.float32)
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (5, 5), axis=(2, 3))
    windows = windows[:, :, ::2, ::2, ::2, ::2]
    found = input_products(graph, ["a"], ArrayDataset([x]), batch_size=2)["a"]
    for group in range(2):
        rows = np.array(
            [windows[n, 2 * group : 2 * group + 2, i, j].ravel() for n in range(5) for i in range(3) for j in range(3)]
        )
        np.testing.assert_allclose(found[group], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


def test_rows_times_weights_are_the_layer(small: ModelGraph, images: Any, run_graph: Run) -> None:
    node = next(node for node in small.model.graph if node.op_type == "Conv")
    weight = small.initializers["a.weight"].reshape(16, -1)
    found = input_rows(node, images)[0] @ weight.T + small.initializers["a.bias"]
    expected = np.maximum(found, 0).reshape(48, 8, 8, 16).transpose(0, 3, 1, 2)
    only = run_graph(_until(small, "a_relu"), images)
    np.testing.assert_allclose(expected, only, rtol=1e-4, atol=1e-5)


def _until(graph: ModelGraph, name: str) -> ModelGraph:
    copy = graph.clone()
    copy.model.graph.outputs.insert(0, copy.values[name])
    return ModelGraph(copy.model)


def test_products_are_the_same_in_several_passes_over_the_data(
    small: ModelGraph, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [layer.name for layer in small.layers()]
    whole = input_products(small, layers, ArrayDataset([images]))
    monkeypatch.setattr(layer_inputs, "_PASS_BYTES", 1)
    for name, found in input_products(small, layers, ArrayDataset([images])).items():
        np.testing.assert_allclose(found, whole[name], rtol=1e-6)


def test_the_error_of_a_changed_row_follows_from_the_products(net: Any, run_graph: Run) -> None:
    """``d^T E[x x^T] d`` against the outputs of both graphs."""
    made = net(6)
    made.gemm("x", "a", 4, 6)
    graph = made.graph("a")
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    change = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    changed = graph.with_initializers({"a.weight": graph.initializers["a.weight"] + change})
    error = np.square(run_graph(changed, x) - run_graph(graph, x)).mean(0)
    (product,) = input_products(graph, ["a"], ArrayDataset([x]))["a"]
    np.testing.assert_allclose(np.einsum("oi,ij,oj->o", change, product, change), error, rtol=1e-4)
