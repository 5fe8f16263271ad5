"""A small GPT (Radford et al. 2019): a decoder whose last layer shares the weight of its embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.zoo.attention import PreNormBlock


class GPT(nn.Module):
    """A causal language model.

    Args:
        width: of the tokens.
        depth: blocks.
        heads: of each attention.
        vocabulary: how many ids there are.
        tokens: longest input.
    """

    def __init__(self, width: int, depth: int, heads: int, vocabulary: int = 50257, tokens: int = 256) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(
            *(PreNormBlock(width, heads, causal=True, approximate="tanh") for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        """``(n, tokens)`` int64 ids to ``(n, tokens, vocabulary)`` logits of the id that follows each."""
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(x)))


def gpt_small(vocabulary: int = 50257) -> GPT:
    """Six blocks of width 384 and six heads."""
    return GPT(384, 6, 6, vocabulary)


def gpt_tiny(vocabulary: int = 24) -> GPT:
    """Two blocks of width 16 and four heads, 12 tokens: for tests and first tries."""
    return GPT(16, 2, 4, vocabulary, 12)
