"""Heads merged with the batch axis and split again, written directly."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from autocompress.graph.importing import load_model

BATCH, TOKENS, HEADS, SIZE = 2, 5, 3, 4


class Detour(nn.Module):
    """``(batch, tokens, heads * size)`` to heads by way of ``batch * heads``; ``swap`` moves tokens and sizes too."""

    def __init__(self, swap: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(6, HEADS * SIZE)
        self.swap = swap

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).transpose(0, 1)
        y = y.reshape(TOKENS, -1, SIZE).transpose(0, 1)
        y = y.reshape(-1, HEADS, TOKENS, SIZE)
        return y.reshape(-1, TOKENS, SIZE).transpose(1, 2).reshape(-1, HEADS, SIZE, TOKENS) if self.swap else y


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_direct_way_gives_the_same_values(swap: bool, batch: int) -> None:
    torch.manual_seed(0)
    module = Detour(swap).eval()
    graph = load_model(module, (torch.randn(BATCH, TOKENS, 6),))
    x = torch.randn(batch, TOKENS, 6)
    session = ort.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, module(x).numpy(), atol=1e-6)


def test_no_axis_that_is_part_batch_is_left() -> None:
    graph = load_model(Detour(True).eval(), (torch.randn(BATCH, TOKENS, 6),))
    assert [node.op_type for node in graph.model.graph].count("Reshape") == 1


def test_a_reshape_that_mixes_otherwise_stays() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.reshape(TOKENS, -1, SIZE).transpose(0, 1)
            return y.reshape(-1, HEADS, SIZE, TOKENS)  # not what the transposition left

    module = Mixing()
    x = torch.randn(2, TOKENS, HEADS * SIZE)
    graph = load_model(module, (x,))
    session = ort.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_array_equal(found, module(x).numpy())
