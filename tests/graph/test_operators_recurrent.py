"""Recurrent layers in torch against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.core.errors import ModelError

GATES = {"LSTM": 4, "GRU": 3}


def weights(kind: str, ways: int, seed: int = 0) -> tuple[NDArray[Any], ...]:
    """Five steps of three samples of four features, and the weights for a state of six."""
    rng = np.random.default_rng(seed)
    rows = GATES[kind] * 6
    shapes = ((5, 3, 4), (ways, rows, 4), (ways, rows, 6), (ways, 2 * rows))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def settings(kind: str, direction: str) -> dict[str, Any]:
    reset = {"linear_before_reset": 1} if kind == "GRU" else {}
    return {"hidden_size": 6, "direction": direction, **reset}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
def test_a_layer_gives_what_onnx_runtime_gives(agree: Callable[..., None], kind: str, direction: str) -> None:
    values = weights(kind, 2 if direction == "bidirectional" else 1)
    agree(kind, *values, outputs=3 if kind == "LSTM" else 2, rtol=1e-4, atol=1e-5, **settings(kind, direction))


@pytest.mark.parametrize("kind", GATES)
def test_a_layer_without_biases_begins_where_it_is_told(agree: Callable[..., None], kind: str) -> None:
    rng = np.random.default_rng(1)
    states = [rng.normal(size=(1, 3, 6)).astype(np.float32) for _ in range(2 if kind == "LSTM" else 1)]
    agree(kind, *weights(kind, 1)[:3], None, None, *states, rtol=1e-4, atol=1e-5, **settings(kind, "forward"))


@pytest.mark.parametrize(
    ("kind", "changed", "reason"),
    [
        ("GRU", {"linear_before_reset": 0}, "only `linear_before_reset` = 1"),
        ("LSTM", {"activations": ["Relu", "Tanh", "Tanh"]}, "activations Relu, Tanh, Tanh are not supported"),
        ("LSTM", {"clip": 3.0}, "neither `clip` nor `layout`"),
        ("LSTM", {"input_forget": 1}, "peepholes and `input_forget`"),
    ],
)
def test_what_torch_does_not_have_is_named(
    one_node: Callable[..., Any], kind: str, changed: dict[str, Any], reason: str
) -> None:
    graph, _, _ = one_node(kind, *weights(kind, 1), **{**settings(kind, "forward"), **changed})
    with pytest.raises(ModelError, match=reason):
        graph.to_torch()
