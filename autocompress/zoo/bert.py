"""BERT-style encoders (Devlin et al. 2019; MiniLM, Wang et al. 2020): ids and a mask of padding to classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.zoo.attention import MLP, Attention


class PostNormBlock(nn.Module):
    """A transformer block that normalizes behind attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, fused=False)
        self.mlp = MLP(width, 4 * width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``(n, tokens, width)`` to the same shape; ``bias`` hides padding."""
        x = self.norm1(x + self.attention(x, bias))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    """An encoder and a classifier on its first token.

    Args:
        width: of the tokens.
        depth: blocks.
        heads: of each attention.
        vocabulary: how many ids there are.
        tokens: longest input.
    """

    places: Tensor

    def __init__(
        self, width: int, depth: int, heads: int, vocabulary: int = 30522, tokens: int = 128, num_classes: int = 2
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(PostNormBlock(width, heads) for _ in range(depth))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)
        self.register_buffer("places", torch.arange(tokens)[None], persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``(n, tokens)`` int64 ids, and a mask that is 0 at padding, to ``(n, num_classes)`` logits."""
        x = self.norm(self.words(ids) + self.positions(self.places[:, : ids.shape[1]]))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        for block in self.blocks:
            x = block(x, bias)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def minilm(num_classes: int = 2) -> Bert:
    """Six blocks of width 384 and twelve heads: the size of MiniLM-L6."""
    return Bert(384, 6, 12, num_classes=num_classes)


def bert_base(num_classes: int = 2) -> Bert:
    """Twelve blocks of width 768 and twelve heads: the size of BERT-base."""
    return Bert(768, 12, 12, tokens=512, num_classes=num_classes)


def bert_tiny(num_classes: int = 2) -> Bert:
    """Two blocks of width 16 and four heads, 40 ids, 12 tokens: for tests and first tries."""
    return Bert(16, 2, 4, 40, 12, num_classes)
