"""Vision transformers (Dosovitskiy et al. 2021) for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autocompress.zoo.attention import PreNormBlock


class ViT(nn.Module):
    """A vision transformer with a class token.

    Args:
        width: of the tokens.
        depth: blocks.
        heads: of each attention.
        patch: side of a patch.
        image_size: side of the images.
        fused: one linear layer for query, key and value; else one for each.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int = 4,
        image_size: int = 32,
        in_channels: int = 3,
        num_classes: int = 10,
        *,
        fused: bool = True,
    ) -> None:
        super().__init__()
        tokens = (image_size // patch) ** 2 + 1
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(PreNormBlock(width, heads, fused=fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, in_channels, image_size, image_size)`` images to ``(n, num_classes)`` logits."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_small(in_channels: int = 3, num_classes: int = 10) -> ViT:
    """Six blocks of width 192 and three heads, as DeiT-Tiny, for images of 32 pixels."""
    return ViT(192, 6, 3, 4, 32, in_channels, num_classes)


def vit_tiny(in_channels: int = 3, num_classes: int = 10) -> ViT:
    """Two blocks of width 16 and four heads, for images of 16 pixels: for tests and first tries."""
    return ViT(16, 2, 4, 4, 16, in_channels, num_classes)


def vit_split_tiny(in_channels: int = 3, num_classes: int = 10) -> ViT:
    """The same with three linear layers for query, key and value."""
    return ViT(16, 2, 4, 4, 16, in_channels, num_classes, fused=False)
