"""Multi-head attention as the zoo's transformers use it, written out: projections, reshapes and two products."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention.

    Args:
        width: of the tokens.
        heads: how many; ``width`` is a multiple.
        fused: one linear layer for query, key and value, cut by a reshape; else one for each.
        causal: a token sees those before it only.
    """

    mask: Tensor

    def __init__(self, width: int, heads: int, *, fused: bool = True, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.fused, self.causal = heads, fused, causal
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(n, tokens, width)`` to the same shape; ``bias``, ``(n, 1, 1, tokens)``, is added to the scores."""
        n, tokens, width = x.shape
        size = width // self.heads
        if self.fused:
            q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (part(x).view(n, tokens, self.heads, size).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-2, -1)) * size**-0.5
        if bias is not None:
            scores = scores + bias
        if self.causal:
            unseen = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(unseen, -1e4)
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """``(n, tokens, width)`` to the same shape."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class PreNormBlock(nn.Module):
    """A transformer block that normalizes before attention and MLP, as ViT and GPT-2 do."""

    def __init__(
        self, width: int, heads: int, *, fused: bool = True, causal: bool = False, approximate: str = "none"
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, fused=fused, causal=causal)
        self.mlp = MLP(width, 4 * width, approximate)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, tokens, width)`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))
