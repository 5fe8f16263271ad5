"""Attention in the ways people write it: heads leave whole, or the reason why they stay is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, SIZE, TOKENS = 12, 3, 4, 5
Case = tuple[Callable[[], nn.Module], dict[str, int | str]]
OUT, OPEN = "feeds the model's output", "merges channels with an axis of open size"


class Attention(nn.Module):
    """``(n, tokens, width)`` to the same shape, by a function of the module and its input."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, x))


def linear(out: int = WIDTH, into: int = WIDTH) -> nn.Linear:
    return nn.Linear(into, out)


def split(**more: nn.Module | nn.Parameter) -> dict[str, nn.Module | nn.Parameter]:
    return {"q": linear(), "k": linear(), "v": linear(), "o": linear(), **more}


def heads(x: Tensor, count: int = HEADS) -> Tensor:
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    return (q @ k.transpose(-1, -2) / SIZE**0.5 + bias).softmax(-1) @ v


def gates(x: Tensor) -> Tensor:
    return x.sigmoid().transpose(1, 2)[..., None]


def rotated(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * 0.6 + torch.cat([-second, first], -1) * 0.8


def causal(n: Any, x: Tensor) -> Tensor:
    return n.o(joined(F.scaled_dot_product_attention(heads(n.q(x)), heads(n.k(x)), heads(n.v(x)), is_causal=True)))


def sliding(n: Any, x: Tensor) -> Tensor:
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril().triu(-2)
    return n.o(joined(F.scaled_dot_product_attention(heads(n.q(x)), heads(n.k(x)), heads(n.v(x)), mask)))


def fused_heads_first(n: Any, x: Tensor) -> Tensor:
    """Every head has its query, key and value side by side, as GPT-NeoX has them."""
    q, k, v = heads(n.qkv(x)).chunk(3, -1)
    return n.o(joined(attend(q, k, v)))


def fused_unflattened(n: Any, x: Tensor) -> Tensor:
    q, k, v = n.qkv(x).unflatten(-1, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4)
    return n.o(joined(attend(q, k, v)))


def grouped(n: Any, x: Tensor) -> Tensor:
    """Two query heads for each head of keys and values."""
    k, v = (heads(part(x), 3).repeat_interleave(2, 1) for part in (n.k, n.v))
    return n.o(joined(attend(heads(n.q(x), 6), k, v)))


def expanded(n: Any, x: Tensor) -> Tensor:
    k, v = (heads(part(x), 3)[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for part in (n.k, n.v))
    return n.o(joined(attend(heads(n.q(x), 6), k, v)))


def by_einsum(n: Any, x: Tensor) -> Tensor:
    q, k, v = (part(x).view(*x.shape[:2], HEADS, SIZE) for part in (n.q, n.k, n.v))
    mixed = torch.einsum("bhqk,bkhd->bqhd", torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1), v)
    return n.o(mixed.flatten(2))


def folded_into_the_batch(n: Any, x: Tensor) -> Tensor:
    q, k, v = (heads(part(x)).flatten(0, 1) for part in (n.q, n.k, n.v))
    return n.o(attend(q, k, v).view(-1, HEADS, TOKENS, SIZE).transpose(1, 2).flatten(2))


CASES: dict[str, Case] = {
    "fused, cut in three": (
        lambda: Attention(
            lambda n, x: n.o(joined(attend(*map(heads, n.qkv(x).chunk(3, -1))))), qkv=linear(36), o=linear()
        ),
        {"qkv": 3, "o": 12, "last": OUT},
    ),
    "fused, split by sizes": (
        lambda: Attention(
            lambda n, x: n.o(joined(attend(*map(heads, n.qkv(x).split(WIDTH, 2))))), qkv=linear(36), o=linear()
        ),
        {"qkv": 3, "o": 12, "last": OUT},
    ),
    "fused, sliced": (
        lambda: Attention(
            lambda n, x: n.o(
                joined(attend(heads((h := n.qkv(x))[..., :12]), heads(h[..., 12:24]), heads(h[..., -12:])))
            ),
            qkv=linear(36), o=linear(),
        ),
        {"qkv": 3, "o": 12, "last": OUT},
    ),
    "fused, heads first": (
        lambda: Attention(fused_heads_first, qkv=linear(36), o=linear()), {"qkv": 3, "o": 12, "last": OUT},
    ),
    "fused, unflattened": (
        lambda: Attention(fused_unflattened, qkv=linear(36), o=linear()), {"qkv": 3, "o": 12, "last": OUT},
    ),
    "split": (
        lambda: Attention(lambda n, x: n.o(joined(attend(heads(n.q(x)), heads(n.k(x)), heads(n.v(x))))), **split()),
        {"q": 3, "o": 12, "last": OUT},
    ),
    "torch's function": (
        lambda: Attention(
            lambda n, x: n.o(joined(F.scaled_dot_product_attention(heads(n.q(x)), heads(n.k(x)), heads(n.v(x))))),
            **split(),
        ),
        {"q": 3, "o": 12, "last": OUT},
    ),
    "torch's function, causal": (lambda: Attention(causal, **split()), {"q": 3, "o": 12, "last": OUT}),
    "torch's function, sliding": (lambda: Attention(sliding, **split()), {"q": 3, "o": 12, "last": OUT}),
    "torch's layer": (
        lambda: Attention(
            lambda n, x: n.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        ),
        {"a.in_proj_weight": 3, "a.out_proj": 12, "last": OUT},
    ),
    "torch's encoder": (
        lambda: Attention(lambda n, x: n.a(x), a=nn.TransformerEncoderLayer(WIDTH, HEADS, 20, batch_first=True)),
        {
            "a.self_attn.in_proj_weight": 3, "a.self_attn.out_proj": "belongs to the model's input", "a.linear1": 20,
            "a.linear2": "is normalized over by LayerNormalization", "last": OUT,
        },
    ),
    "a bias for every head": (
        lambda: Attention(
            lambda n, x: n.o(joined(attend(heads(n.q(x)), heads(n.k(x)), heads(n.v(x)), n.b))),
            **split(b=nn.Parameter(torch.randn(1, HEADS, TOKENS, TOKENS))),
        ),
        {"q": 3, "o": 12, "last": OUT},
    ),
    "a scale for every head": (
        lambda: Attention(
            lambda n, x: n.o(
                joined(attend(*(F.normalize(heads(p(x)), dim=-1) for p in (n.q, n.k)), heads(n.v(x)) * n.s))
            ),
            **split(s=nn.Parameter(torch.rand(HEADS, 1, 1))),
        ),
        {"q": 3, "o": 12, "last": OUT},
    ),
    "heads normalized": (
        lambda: Attention(
            lambda n, x: n.o(joined(attend(n.n(heads(n.q(x))), n.n(heads(n.k(x))), heads(n.v(x))))),
            **split(n=nn.LayerNorm(SIZE)),
        ),
        {"q": 3, "o": 12, "last": OUT},
    ),
    "rotary": (
        lambda: Attention(
            lambda n, x: n.o(joined(attend(rotated(heads(n.q(x))), rotated(heads(n.k(x))), heads(n.v(x))))), **split()
        ),
        {"q": 3, "o": 12, "last": OUT},
    ),
    "grouped queries, repeated": (
        lambda: Attention(grouped, **split(q=linear(24), o=linear(WIDTH, 24))), {"k": 3, "o": 12, "last": OUT},
    ),
    "grouped queries, expanded": (
        lambda: Attention(expanded, **split(q=linear(24), o=linear(WIDTH, 24))), {"k": 3, "o": 12, "last": OUT},
    ),
    "one head": (
        lambda: Attention(lambda n, x: n.o(attend(n.q(x), n.k(x), n.v(x))), **split()),
        {"q": "is summed over by MatMul", "k": "is summed over by MatMul", "v": 12, "o": 12, "last": OUT},
    ),
    "by einsum": (lambda: Attention(by_einsum, **split()), {"q": 3, "o": 12, "last": OUT}),
    "heads folded into the batch": (
        lambda: Attention(folded_into_the_batch, **split()), {"q": OPEN, "k": OPEN, "v": OPEN, "o": 12, "last": OUT},
    ),
    "a gate for every head": (
        lambda: Attention(
            lambda n, x: n.o(joined(attend(*(heads(p(x)) for p in (n.q, n.k, n.v))) * gates(n.g(x)))),
            **split(g=linear(HEADS)),
        ),
        {"q": 3, "o": 12, "last": OUT},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_heads_leave_whole_or_stay_for_a_reason(name: str, export: Any, check: Any, random_keep: Any) -> None:
    make, wanted = CASES[name]
    torch.manual_seed(0)
    graph = export(make(), torch.randn(2, TOKENS, WIDTH))
    found = {group.name: group.blocked or group.channels for group in graph.groups()}
    assert list(found) == list(wanted), found
    for group, outcome in wanted.items():
        assert outcome == found[group] if isinstance(outcome, int) else outcome in str(found[group]), found
    for seed in range(4):
        check(graph, random_keep(graph, seed), seed)
