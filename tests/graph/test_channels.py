"""Channel dependencies: a pruned graph computes what the whole one computes with those channels masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from autocompress.compress.prune import prune, select_kept
from autocompress.core.plan import CompressionPlan
from autocompress.graph.channels import analyse_channels
from autocompress.graph.model_graph import ModelGraph

Keep = dict[str, NDArray[np.intp]]
Check = Callable[[ModelGraph, Keep, int], None]
Draw = Callable[..., Keep]
Case = tuple[Callable[[], tuple[nn.Module, tuple[Tensor, ...]]], Mapping[str, int | str]]

FIXTURES_ARE_SESSION_WIDE = [HealthCheck.function_scoped_fixture]
node = helper.make_node


def described(graph: ModelGraph) -> dict[str, int | str]:
    """Group name to how many units, or why none."""
    return {group.name: group.blocked or group.channels for group in graph.groups()}


@settings(max_examples=8, deadline=None, suppress_health_check=FIXTURES_ARE_SESSION_WIDE)
@given(seed=st.integers(0, 2**32 - 1))
def test_pruning_any_channels_of_a_network_equals_masking_them(
    network: ModelGraph, check: Check, random_keep: Draw, seed: int
) -> None:
    check(network, random_keep(network, seed), seed)


def test_pruning_one_group_alone_equals_masking_it(network: ModelGraph, check: Check) -> None:
    prunable = [group for group in network.groups() if group.prunable]
    for group in prunable[:: max(1, len(prunable) // 5)]:
        check(network, {group.name: np.arange(0, group.channels, 2)}, 0)


def test_every_group_can_go_down_to_one_unit(network: ModelGraph, check: Check) -> None:
    check(network, {group.name: np.array([group.channels - 1]) for group in network.groups() if group.prunable}, 0)


def test_pruning_a_pruned_network_equals_masking_it(network: ModelGraph, check: Check, random_keep: Draw) -> None:
    pruned = prune(network, random_keep(network, 1))
    check(pruned, random_keep(pruned, 2), 3)


def test_only_what_feeds_the_outputs_of_a_convolutional_network_is_blocked(convolutional: ModelGraph) -> None:
    blocked = {group.blocked for group in convolutional.groups() if not group.prunable}
    assert blocked <= {f"feeds the model's output {name!r}" for name in convolutional.output_names}


#: What can be pruned in each transformer: its heads, its hidden layers, and what reads one token.
HEADS = {
    "vit": {"attention.qkv": 4, "mlp.fc1": 64},
    "vit_split": {"attention.q": 4, "mlp.fc1": 64},
    "bert": {"attention.q": 4, "mlp.fc1": 64, "pooler": 16},
    "gpt": {"attention.qkv": 4, "mlp.fc1": 64},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_transformer_loses_heads_and_hidden_neurons(network_named: Callable[[str], ModelGraph], name: str) -> None:
    prunable = {group.name: group.channels for group in network_named(name).groups() if group.prunable}
    assert {".".join(group.split(".")[-2:]): count for group, count in prunable.items()} == HEADS[name]
    assert len(prunable) == 4 + ("pooler" in prunable)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("convnext", "LayerNorm"), ("bert", "LayerNorm"), ("gpt", "LayerNorm"), ("vit", "Expand")],
)
def test_the_width_is_blocked_by_what_normalizes_or_repeats_it(
    network_named: Callable[[str], ModelGraph], name: str, reason: str
) -> None:
    graph = network_named(name)
    blocked = [str(group.blocked) for group in graph.groups() if not group.prunable]
    inside = [text for text in blocked if "model's output" not in text]
    assert inside
    assert all(reason in text for text in inside)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrent_layer_is_kept_whole(network_named: Callable[[str], ModelGraph], name: str) -> None:
    reasons = {group.name: str(group.blocked) for group in network_named(name).groups() if not group.prunable}
    assert list(reasons) == ["embed", "fc2"]
    assert "is kept whole" in reasons["embed"]


def test_masking_matters(network_named: Callable[[str], ModelGraph], run_onnx: Callable[..., Any], noise: Any) -> None:
    graph = network_named("resnet20")
    inputs = noise(graph)
    pruned = prune(graph, {"conv1": np.arange(8)})
    assert np.abs(run_onnx(pruned, inputs)[0] - run_onnx(graph, inputs)[0]).max() > 1e-2


def test_the_shortcuts_of_a_stage_couple_all_its_blocks(network_named: Callable[[str], ModelGraph]) -> None:
    groups = {group.name: group for group in network_named("resnet20").groups()}
    makers = [member.initializer for member in groups["conv1"].members if member.role == "out"]
    assert makers == ["conv1.weight", *(f"layer1.{block}.conv2.weight" for block in range(3))]
    assert len(groups) == 3 + 9 + 1


def test_a_flattened_map_gives_the_linear_layer_a_span_for_every_channel(
    network_named: Callable[[str], ModelGraph],
) -> None:
    graph = network_named("vgg")
    last = next(group for group in graph.groups() if any(m.initializer == "classifier.0.weight" for m in group.members))
    member = next(m for m in last.members if m.initializer == "classifier.0.weight")
    np.testing.assert_array_equal(member.indices, np.arange(16 * 16).reshape(16, 16))
    assert member.role == "in"


def test_the_analysis_of_a_graph_is_made_once(network_named: Callable[[str], ModelGraph]) -> None:
    graph = network_named("vgg")
    assert analyse_channels(graph) is analyse_channels(graph)


@settings(max_examples=20, deadline=None, suppress_health_check=FIXTURES_ARE_SESSION_WIDE)
@given(ratios=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)), seed=st.integers(0, 99))
def test_a_higher_ratio_keeps_a_subset(
    network_named: Callable[[str], ModelGraph], ratios: tuple[float, float], seed: int
) -> None:
    groups = network_named("densenet").groups()
    rng = np.random.default_rng(seed)
    scores = {group.name: rng.integers(0, 5, group.channels).astype(float) for group in groups}
    low, high = (select_kept(groups, scores, CompressionPlan(prune={"*": ratio})) for ratio in sorted(ratios))
    for name, kept in low.items():
        assert set(high[name]) <= set(kept)


class Made(nn.Module):
    """A network from its layers and what it does with them."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def images(run: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network for one batch of small images."""
    return Made(run, **parts), (torch.zeros(2, 3, 8, 8),)


def vectors(run: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network for vectors of six."""
    return Made(run, **parts), (torch.zeros(2, 6),)


def head(net: Any, x: Tensor) -> Tensor:
    """Mean over positions, then a linear layer called ``fc``."""
    result: Tensor = net.fc(x.mean((2, 3)))
    return result


def normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv(into: int, out: int, kernel: int = 1, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **settings)


def fc(into: int) -> nn.Linear:
    return nn.Linear(into, 5)


OUT = "feeds the model's output"
#: What a network does, and its groups in order with their number of units, or words of why they are blocked.
CASES: dict[str, Case] = {
    "branches": (
        lambda: images(
            lambda n, x: head(n, F.relu(n.b(F.relu(n.a(x))) + n.c(n.a(x)))),
            a=conv(3, 8, 3), b=conv(8, 8, 3), c=conv(8, 8), fc=fc(8),
        ),
        {"a": 8, "b": 8, "fc": OUT},
    ),
    "a value added to itself": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x) + n.a(x))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "a value concatenated with itself": (
        lambda: images(
            lambda n, x: head(n, n.b(torch.cat([h := F.relu(n.a(x)), h], 1))), a=conv(3, 8, 3), b=conv(16, 6), fc=fc(6)
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "concatenated with itself, then added": (
        lambda: images(
            lambda n, x: head(n, n.b(torch.cat([h := n.a(x), h], 1) + n.c(x))),
            a=conv(3, 8, 3), c=conv(3, 16), b=conv(16, 6), fc=fc(6),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "concatenated in both orders, uneven": (
        lambda: images(
            lambda n, x: head(n, n.b(torch.cat([h := n.a(x), k := n.c(x)], 1) + torch.cat([k, h], 1))),
            a=conv(3, 8, 3), c=conv(3, 4), b=conv(12, 6), fc=fc(6),
        ),
        {"a": 4, "b": 6, "fc": OUT},
    ),
    "one convolution run twice": (
        lambda: images(
            lambda n, x: head(n, F.relu(n.b(F.relu(n.b(F.relu(n.a(x))))))), a=conv(3, 8, 3), b=conv(8, 8, 3), fc=fc(8)
        ),
        {"a": 8, "fc": OUT},
    ),
    "one weight in two convolutions": (
        lambda: images(
            lambda n, x: head(
                n, torch.cat([F.conv2d(h := n.a(x), n.w), F.conv2d(h, n.w, padding=1)[:, :, 1:-1, 1:-1]], 1)
            ),
            a=conv(3, 8, 3), w=normal(6, 8, 1, 1), fc=fc(12),
        ),
        {"a": 8, "w": 6, "fc": OUT},
    ),
    "one bias in two convolutions": (
        lambda: images(
            lambda n, x: head(n, F.relu(F.conv2d(F.relu(F.conv2d(x, n.w1, n.b)), n.w2, n.b))),
            w1=normal(6, 3, 3, 3), w2=normal(6, 6, 3, 3), b=normal(6), fc=fc(6),
        ),
        {"w1": 6, "fc": OUT},
    ),
    "siamese": (
        lambda: (
            Made(
                lambda n, x, y: n.fc((F.relu(n.a(x)).mean((2, 3)) - F.relu(n.a(y)).mean((2, 3))).abs()),
                a=conv(3, 8, 3), fc=fc(8),
            ),
            (torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)),
        ),
        {"a": 8, "fc": OUT},
    ),
    "an autoencoder with tied weights": (
        lambda: vectors(
            lambda n, x: n.fc(F.relu(F.linear(F.relu(F.linear(F.relu(n.a(x)), n.w)), n.w.t()))),
            a=nn.Linear(6, 10), w=normal(7, 10), fc=fc(10),
        ),
        {"a": 10, "/MatMul": 7, "w": 10, "fc": OUT},
    ),
    "an output that is read on": (
        lambda: images(
            lambda n, x: (head(n, n.b(h := F.relu(n.a(x)))), h), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)
        ),
        {"a": OUT, "b": 6, "fc": OUT},
    ),
    "two inputs and two heads": (
        lambda: (
            Made(
                lambda n, x, y: (
                    n.one(h := torch.cat([n.a(x).mean((2, 3)), F.relu(n.b(y))], 1)), n.two(F.relu(n.c(h)))
                ),
                a=conv(3, 8, 3), b=nn.Linear(4, 6), c=nn.Linear(14, 9), one=nn.Linear(14, 3), two=nn.Linear(9, 2),
            ),
            (torch.zeros(2, 3, 8, 8), torch.zeros(2, 4)),
        ),
        {"a": 8, "b": 6, "one": OUT, "c": 9, "two": OUT},
    ),
    "scaled by a number": (
        lambda: images(
            lambda n, x: head(n, n.b(F.relu(n.a(x)) * n.k * n.s)),
            a=conv(3, 8, 3), b=conv(8, 6), k=normal(1, 1, 1, 1), s=normal(), fc=fc(6),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "scaled and shifted by channel": (
        lambda: images(
            lambda n, x: head(n, n.b(n.a(x) * n.k + n.s)),
            a=conv(3, 8, 3), b=conv(8, 6), k=normal(1, 8, 1, 1), s=normal(8, 1, 1), fc=fc(6),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "chosen by a condition": (
        lambda: images(
            lambda n, x: head(n, n.b(torch.where((h := n.a(x)) > 0, h, n.k))),
            a=conv(3, 8, 3), b=conv(8, 6), k=normal(1, 8, 1, 1), fc=fc(6),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "a gate of one channel": (
        lambda: images(
            lambda n, x: head(n, n.b((h := n.a(x)) * torch.sigmoid(n.g(h)))),
            a=conv(3, 8, 3), g=conv(8, 1), b=conv(8, 6), fc=fc(6),
        ),
        {"a": 8, "g": 1, "b": 6, "fc": OUT},
    ),
    "a slice of channels": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x)[:, 2:6])), a=conv(3, 8, 3), b=conv(4, 6), fc=fc(6)),
        {"a": 4, "a:2": 4, "b": 6, "fc": OUT},
    ),
    "slices of channels that overlap": (
        lambda: images(
            lambda n, x: head(n, n.b((h := n.a(x))[:, -6:] * h[:, 1:7])), a=conv(3, 8, 3), b=conv(6, 6), fc=fc(6)
        ),
        {"a": 1, "a:2": 1, "b": 6, "fc": OUT},
    ),
    "every second channel": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x)[:, ::2])), a=conv(3, 8, 3), b=conv(4, 6), fc=fc(6)),
        {"a": "is changed by Slice", "b": 6, "fc": OUT},
    ),
    "channels in reverse": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x).flip(1))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)),
        {"a": "runs backwards", "b": 6, "fc": OUT},
    ),
    "picked channels": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x)[:, [3, 1, 1, 7]])), a=conv(3, 8, 3), b=conv(4, 6), fc=fc(6)),
        {"a": "is picked from by Gather", "b": 6, "fc": OUT},
    ),
    "repeated channels": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x).repeat(1, 2, 1, 1))), a=conv(3, 8, 3), b=conv(16, 6), fc=fc(6)),
        {"a": "is changed by Tile", "b": 6, "fc": OUT},
    ),
    "a split into uneven parts": (
        lambda: images(
            lambda n, x: head(n, torch.cat([n.b((s := n.a(x).split([2, 5, 3], 1))[1]), s[2], s[0]], 1)),
            a=conv(3, 10, 3), b=conv(5, 6), fc=fc(11),
        ),
        {"a": 2, "a:2": 5, "a:3": 3, "b": 6, "fc": OUT},
    ),
    "padded channels": (
        lambda: images(
            lambda n, x: head(n, n.b(h := F.relu(n.a(x))) + F.pad(h, (0, 0, 0, 0, 2, 2))),
            a=conv(3, 8, 3), b=conv(8, 12), fc=fc(12),
        ),
        {"a": 8, "b": "is padded by Pad", "fc": OUT},
    ),
    "padded positions": (
        lambda: images(
            lambda n, x: head(n, n.b(F.pad(F.relu(n.a(x)), (1, 2, 0, 1), value=1.0))),
            a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "a mean over channels": (
        lambda: images(lambda n, x: n.fc(n.a(x).mean(1).flatten(1)), a=conv(3, 8, 3), fc=fc(64)),
        {"a": "is reduced by ReduceMean", "fc": OUT},
    ),
    "a softmax over channels": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x).softmax(1))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)),
        {"a": "is mixed by Softmax", "b": 6, "fc": OUT},
    ),
    "a softmax over positions": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x).softmax(-1))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "normalized over channels": (
        lambda: images(
            lambda n, x: head(n, n.b(F.normalize(n.a(x), dim=1))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)
        ),
        {"a": "is reduced by ReduceL2", "b": 6, "fc": OUT},
    ),
    "local response normalization": (
        lambda: images(
            lambda n, x: head(n, n.b(F.local_response_norm(n.a(x), 3))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)
        ),
        {"a": "holds positions for AveragePool", "b": 6, "fc": OUT},
    ),
    "a flattened map": (
        lambda: images(lambda n, x: n.fc(F.relu(n.a(x)).flatten(1)), a=conv(3, 8, 3), fc=fc(512)),
        {"a": 8, "fc": OUT},
    ),
    "a flattened map, normalized": (
        lambda: images(
            lambda n, x: n.fc(n.bn(F.relu(n.a(x)).flatten(1))), a=conv(3, 8, 3), bn=nn.BatchNorm1d(512), fc=fc(512)
        ),
        {"a": 8, "fc": OUT},
    ),
    "a pool that drops its axes": (
        lambda: images(lambda n, x: n.fc(n.a(x).amax((2, 3))), a=conv(3, 8, 3), fc=fc(8)),
        {"a": 8, "fc": OUT},
    ),
    "a squeezed pool": (
        lambda: images(
            lambda n, x: n.fc(F.adaptive_avg_pool2d(n.a(x), 1).squeeze(-1).squeeze(-1)), a=conv(3, 8, 3), fc=fc(8)
        ),
        {"a": 8, "fc": OUT},
    ),
    "a channel shuffle": (
        lambda: images(lambda n, x: head(n, n.b(shuffled(n.a(x)))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)),
        {"a": 4, "b": 6, "fc": OUT},
    ),
    "a channel shuffle before groups": (
        lambda: images(lambda n, x: head(n, n.b(shuffled(n.a(x)))), a=conv(3, 8, 3), b=conv(8, 6, groups=2), fc=fc(6)),
        {"a": 2, "b": 3, "fc": OUT},
    ),
    "shufflenet": (
        lambda: images(
            lambda n, x: head(
                n,
                torch.cat(
                    [(s := shuffled(n.a(x)).chunk(2, 1))[0], F.relu(n.d(n.dw(F.relu(n.c(s[1])))))], 1
                ),
            ),
            a=conv(3, 8, 3), c=conv(4, 4), dw=conv(4, 4, 3, groups=4), d=conv(4, 4), fc=fc(8),
        ),
        {"a": 2, "a:2": 2, "c": 4, "d": 4, "fc": OUT},
    ),
    "a pixel shuffle": (
        lambda: images(lambda n, x: head(n, n.b(F.pixel_shuffle(n.a(x), 2))), a=conv(3, 16, 3), b=conv(4, 6), fc=fc(6)),
        {"a": 4, "b": 6, "fc": OUT},
    ),
    "a pixel unshuffle": (
        lambda: images(
            lambda n, x: head(n, n.b(F.pixel_unshuffle(n.a(x), 2))), a=conv(3, 4, 3), b=conv(16, 6), fc=fc(6)
        ),
        {"a": 4, "b": 6, "fc": OUT},
    ),
    "groups": (
        lambda: images(
            lambda n, x: head(n, n.c(F.relu(n.b(F.relu(n.a(x)))))),
            a=conv(3, 8, 3), b=conv(8, 12, 3, groups=4), c=conv(12, 6), fc=fc(6),
        ),
        {"a": 2, "b": 3, "c": 6, "fc": OUT},
    ),
    "groups with a shortcut": (
        lambda: images(
            lambda n, x: head(n, n.b(h := F.relu(n.a(x))) + h), a=conv(3, 8, 3), b=conv(8, 8, 3, groups=2), fc=fc(8)
        ),
        {"a": 4, "fc": OUT},
    ),
    "depthwise with a multiplier": (
        lambda: images(
            lambda n, x: head(n, n.c(F.relu(n.b(F.relu(n.a(x)))))),
            a=conv(3, 8, 3), b=conv(8, 16, 3, groups=8), c=conv(16, 6), fc=fc(6),
        ),
        {"a": 8, "c": 6, "fc": OUT},
    ),
    "depthwise on the input": (
        lambda: images(
            lambda n, x: head(n, n.b(F.relu(n.a(x)))), a=conv(3, 12, 3, groups=3), b=conv(12, 6), fc=fc(6)
        ),
        {"a": "belongs to the model's input", "b": 6, "fc": OUT},
    ),
    "concatenated, then groups": (
        lambda: images(
            lambda n, x: head(n, n.c(torch.cat([F.relu(n.a(x)), n.b(x)], 1))),
            a=conv(3, 8, 3), b=conv(3, 4), c=conv(12, 6, groups=2), fc=fc(6),
        ),
        {"a": 2, "a:2": 4, "c": 3, "fc": OUT},
    ),
    "concatenated, then depthwise": (
        lambda: images(
            lambda n, x: head(n, n.c(torch.cat([F.relu(n.a(x)), n.b(x)], 1))),
            a=conv(3, 8, 3), b=conv(3, 4), c=conv(12, 12, 3, groups=12), fc=fc(12),
        ),
        {"a": 8, "b": 4, "fc": OUT},
    ),
    "concatenated with the input": (
        lambda: images(
            lambda n, x: head(n, n.c(torch.cat([F.relu(n.a(x)), x], 1))), a=conv(3, 8, 3), c=conv(11, 6), fc=fc(6)
        ),
        {"a": 8, "c": 6, "fc": OUT},
    ),
    "a transposed convolution": (
        lambda: images(
            lambda n, x: head(n, n.c(F.relu(n.b(F.relu(n.a(x)))))),
            a=conv(3, 8, 3), b=nn.ConvTranspose2d(8, 6, 2, 2), c=conv(6, 4), fc=fc(4),
        ),
        {"a": 8, "b": 6, "c": 4, "fc": OUT},
    ),
    "a transposed convolution in groups": (
        lambda: images(
            lambda n, x: head(n, n.c(F.relu(n.b(F.relu(n.a(x)))))),
            a=conv(3, 8, 3), b=nn.ConvTranspose2d(8, 6, 2, 2, groups=2), c=conv(6, 4), fc=fc(4),
        ),
        {"a": 4, "b": 3, "c": 4, "fc": OUT},
    ),
    "a depthwise transposed convolution": (
        lambda: images(
            lambda n, x: head(n, n.c(F.relu(n.b(F.relu(n.a(x)))))),
            a=conv(3, 8, 3), b=nn.ConvTranspose2d(8, 16, 2, 2, groups=8), c=conv(16, 4), fc=fc(4),
        ),
        {"a": 8, "c": 4, "fc": OUT},
    ),
    "a transposed convolution of one channel in each group, flattened": (
        lambda: images(
            lambda n, x: n.fc(n.b(F.relu(n.a(x))).flatten(1)),
            a=conv(3, 8, 3), b=nn.ConvTranspose2d(8, 2, 1, groups=2), fc=fc(128),
        ),
        {"a": 4, "b": 1, "fc": OUT},
    ),
    "a small U-Net": (
        lambda: images(
            lambda n, x: n.o(
                n.c(torch.cat([h := F.relu(n.a(x)), F.interpolate(F.relu(n.b(F.max_pool2d(h, 2))), scale_factor=2)], 1))
            ),
            a=conv(3, 8, 3), b=conv(8, 12, 3), c=conv(20, 6, 3), o=conv(6, 2),
        ),
        {"a": 8, "b": 12, "c": 6, "o": OUT},
    ),
    "resized to the size of another": (
        lambda: images(
            lambda n, x: n.o(
                torch.cat([h := n.a(x), F.interpolate(n.b(F.max_pool2d(h, 2)), size=h.shape[2:], mode="bilinear")], 1)
            ),
            a=conv(3, 8, 3), b=conv(8, 12, 3), o=conv(20, 2),
        ),
        {"a": 8, "b": "has its size read by Shape", "o": OUT},
    ),
    "attention": (
        lambda: (
            Made(
                lambda n, x: n.o(
                    ((n.q(x).view(2, 5, 3, 4).transpose(1, 2) @ n.k(x).view(2, 5, 3, 4).permute(0, 2, 3, 1)).softmax(-1)
                     @ n.v(x).view(2, 5, 3, 4).transpose(1, 2)).transpose(1, 2).reshape(2, 5, 12)
                ),
                q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), o=fc(12),
            ),
            (torch.zeros(2, 5, 6),),
        ),
        {"q": 3, "o": OUT},
    ),
    "linear layers on three axes": (
        lambda: (Made(lambda n, x: n.b(F.gelu(n.a(x))), a=nn.Linear(6, 10), b=fc(10)), (torch.zeros(2, 5, 6),)),
        {"a": 10, "b": OUT},
    ),
    "convolutions over one axis": (
        lambda: (
            Made(lambda n, x: n.fc(F.relu(n.b(F.relu(n.a(x)))).mean(-1)),
                 a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 6, 3), fc=fc(6)),
            (torch.zeros(2, 3, 9),),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "convolutions over three axes": (
        lambda: (
            Made(lambda n, x: n.fc(n.b(F.relu(n.a(x))).mean((2, 3, 4))),
                 a=nn.Conv3d(3, 8, 3), b=nn.Conv3d(8, 6, 1), fc=fc(6)),
            (torch.zeros(2, 3, 5, 5, 5),),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "channels moved last": (
        lambda: images(lambda n, x: n.b(n.a(x).permute(0, 2, 3, 1)).mean((1, 2)), a=conv(3, 8, 3), b=fc(8)),
        {"a": 8, "b": OUT},
    ),
    "ConvNeXt": (
        lambda: images(
            lambda n, x: head(
                n, (h := n.a(x)) + (n.c(F.gelu(n.b(n.n(n.dw(h).permute(0, 2, 3, 1))))) * n.g).permute(0, 3, 1, 2)
            ),
            a=conv(3, 8), dw=conv(8, 8, 3, groups=8), n=nn.LayerNorm(8), b=nn.Linear(8, 16), c=nn.Linear(16, 8),
            g=normal(8), fc=fc(8),
        ),
        {"a": "is normalized over by LayerNormalization", "b": 16, "fc": OUT},
    ),
    "group normalization": (
        lambda: images(
            lambda n, x: head(n, n.b(F.relu(n.n(n.a(x))))),
            a=conv(3, 8, 3), n=nn.GroupNorm(2, 8), b=conv(8, 6), fc=fc(6),
        ),
        {"a": 2, "b": 6, "fc": OUT},
    ),
    "instance normalization": (
        lambda: images(
            lambda n, x: head(n, n.b(F.relu(n.n(n.a(x))))),
            a=conv(3, 8, 3), n=nn.InstanceNorm2d(8, affine=True), b=conv(8, 6), fc=fc(6),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "a slope for every channel": (
        lambda: images(
            lambda n, x: head(n, n.b(n.p(n.a(x)))), a=conv(3, 8, 3), p=nn.PReLU(8), b=conv(8, 6), fc=fc(6)
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "one slope for all channels": (
        lambda: images(
            lambda n, x: head(n, n.b(n.p(n.a(x)))), a=conv(3, 8, 3), p=nn.PReLU(1), b=conv(8, 6), fc=fc(6)
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "an outer product": (
        lambda: images(
            lambda n, x: n.fc((n.a(x).mean((2, 3))[:, :, None] * n.b(x).mean((2, 3))[:, None]).flatten(1)),
            a=conv(3, 4), b=conv(3, 6), fc=fc(24),
        ),
        {"a": "merges two axes of channels", "b": "merges two axes of channels", "fc": OUT},
    ),
    "a bilinear form": (
        lambda: vectors(
            lambda n, x: torch.einsum("ni,ij,nj->n", n.a(x), n.w, n.b(x))[:, None],
            a=nn.Linear(6, 9), b=nn.Linear(6, 7), w=normal(9, 7),
        ),
        {"a": "is summed over by Einsum", "b": "is summed over by Einsum"},
    ),
    "channels and positions merged": (
        lambda: images(lambda n, x: n.fc(n.a(x).view(x.shape[0], 2, -1).mean(1)), a=conv(3, 8, 3), fc=fc(256)),
        {"a": 4, "fc": OUT},
    ),
    "halves of the channels multiplied": (
        lambda: images(
            lambda n, x: head(n, n.b((h := n.a(x).view(x.shape[0], 2, 4, 8, 8))[:, 0] * h[:, 1])),
            a=conv(3, 8, 3), b=conv(4, 6), fc=fc(6),
        ),
        {"a": 4, "b": 6, "fc": OUT},
    ),
    "the largest of neighbouring channels": (
        lambda: images(
            lambda n, x: head(n, n.b(n.a(x).view(x.shape[0], 4, 2, 8, 8).amax(2))),
            a=conv(3, 8, 3), b=conv(4, 6), fc=fc(6),
        ),
        {"a": 4, "b": 6, "fc": OUT},
    ),
    "selective kernels": (
        lambda: images(
            lambda n, x: head(
                n,
                (h := n.a(x)) * (g := torch.stack([n.g1(z := F.relu(n.z(h.mean((2, 3))))), n.g2(z)], 1).softmax(1))[
                    :, 0, :, None, None
                ]
                + n.b(x) * g[:, 1, :, None, None],
            ),
            a=conv(3, 8, 3), b=conv(3, 8), z=nn.Linear(8, 6), g1=nn.Linear(6, 8), g2=nn.Linear(6, 8), fc=fc(8),
        ),
        {"a": 8, "z": 6, "fc": OUT},
    ),
    "efficient channel attention": (
        lambda: images(
            lambda n, x: head(
                n, (h := n.a(x)) * n.e(h.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()[:, :, None, None]
            ),
            a=conv(3, 8, 3), e=nn.Conv1d(1, 1, 3, padding=1), fc=fc(8),
        ),
        {"a": "holds positions for Conv", "e": 1, "fc": OUT},
    ),
    "a convolution along the channels": (
        lambda: images(
            lambda n, x: n.e(n.a(x).mean((2, 3)).unsqueeze(1)).mean(-1), a=conv(3, 8, 3), e=nn.Conv1d(1, 4, 3)
        ),
        {"a": "holds positions for Conv", "e": OUT},
    ),
    "channels and columns swapped": (
        lambda: images(lambda n, x: head(n, n.b(n.a(x).transpose(1, 3))), a=conv(3, 8, 3), b=conv(8, 6), fc=fc(6)),
        {"a": "holds positions for Conv", "b": 6, "fc": OUT},
    ),
    "a pool along the channels": (
        lambda: images(
            lambda n, x: head(n, F.max_pool2d(n.a(x).transpose(1, 3), 2).transpose(1, 3)), a=conv(3, 8, 3), fc=fc(4)
        ),
        {"a": "holds positions for MaxPool", "fc": OUT},
    ),
    "a transposed convolution along the channels": (
        lambda: images(
            lambda n, x: head(n, n.b(n.a(x).transpose(1, 3))),
            a=conv(3, 8, 3), b=nn.ConvTranspose2d(8, 6, 2, 2), fc=fc(6),
        ),
        {"a": "holds positions for ConvTranspose", "b": 6, "fc": OUT},
    ),
    "a pixel shuffle along the channels": (
        lambda: images(
            lambda n, x: head(n, F.pixel_shuffle(n.a(x).transpose(1, 3), 2).transpose(1, 3)),
            a=conv(3, 8, 3), fc=fc(16),
        ),
        {"a": "holds positions for DepthToSpace", "fc": OUT},
    ),
    "frames folded into the batch": (
        lambda: (
            Made(
                lambda n, x: n.fc(F.relu(n.b(n.a(x.flatten(0, 1)).mean((2, 3)))).view(-1, 4, 6).mean(1)),
                a=conv(3, 8, 3), b=nn.Linear(8, 6), fc=fc(6),
            ),
            (torch.zeros(2, 4, 3, 8, 8),),
        ),
        {"a": 8, "b": 6, "fc": OUT},
    ),
    "an embedding beside a layer": (
        lambda: (
            Made(
                lambda n, x: n.fc(F.relu(n.a(n.e(x)) + n.f(x)).mean(1)),
                e=nn.Embedding(5, 6), f=nn.Embedding(5, 7), a=nn.Linear(6, 7), fc=fc(7),
            ),
            (torch.zeros(2, 4, dtype=torch.int64),),
        ),
        {"e": 6, "a": 7, "fc": OUT},
    ),
    "an embedding before a convolution": (
        lambda: (
            Made(
                lambda n, x: n.fc(F.relu(n.a(n.e(x).transpose(1, 2))).mean(-1)),
                e=nn.Embedding(5, 6), a=nn.Conv1d(6, 7, 3), fc=fc(7),
            ),
            (torch.zeros(2, 4, dtype=torch.int64),),
        ),
        {"e": 6, "a": 7, "fc": OUT},
    ),
    "an embedding that is normalized": (
        lambda: (
            Made(lambda n, x: n.fc(n.n(n.e(x)).mean(1)), e=nn.Embedding(5, 6), n=nn.LayerNorm(6), fc=fc(6)),
            (torch.zeros(2, 4, dtype=torch.int64),),
        ),
        {"e": "is normalized over by LayerNormalization", "fc": OUT},
    ),
    "weights on the left": (
        lambda: (
            Made(lambda n, x: n.fc((n.v @ F.relu(n.w @ x)).mean(-1)), w=normal(8, 5), v=normal(6, 8), fc=fc(6)),
            (torch.zeros(2, 5, 7),),
        ),
        {"/MatMul": 8, "/MatMul_1": 6, "fc": OUT},
    ),
    "an MLP-Mixer": (
        lambda: (
            Made(
                lambda n, x: n.fc(
                    (h := (e := n.e(x) + n.p) + n.b(F.gelu(n.a(e.transpose(1, 2)))).transpose(1, 2))
                    .add(n.d(F.gelu(n.c(h)))).flatten(1)
                ),
                e=nn.Linear(4, 6), p=normal(1, 5, 6), a=nn.Linear(5, 9), b=nn.Linear(9, 5), c=nn.Linear(6, 11),
                d=nn.Linear(11, 6), fc=fc(30),
            ),
            (torch.zeros(2, 5, 4),),
        ),
        {"e": 6, "a": 9, "b": "belongs to the model's input", "c": 11, "fc": OUT},
    ),
    "a class as output": (
        lambda: images(lambda n, x: head(n, F.relu(n.a(x))).argmax(1), a=conv(3, 8, 3), fc=fc(8)),
        {"a": 8, "fc": "is reduced by ArgMax"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_network_is_pruned_right_or_blocked_for_a_reason(
    name: str, export: Any, check: Check, random_keep: Draw
) -> None:
    make, wanted = CASES[name]
    torch.manual_seed(0)
    module, examples = make()
    graph = export(module, *examples)
    found = described(graph)
    assert list(found) == list(wanted), found
    for group, outcome in wanted.items():
        assert outcome == found[group] if isinstance(outcome, int) else outcome in str(found[group]), found
    for seed in range(5):
        check(graph, random_keep(graph, seed), seed)


def test_an_operator_of_another_domain_is_not_followed(write: Any) -> None:
    graph = write(
        [node("Conv", ["x", "w"], ["h"]), node("Gelu", ["h"], ["y"], domain="com.microsoft", name="g")],
        {"w": np.ones((4, 3, 1, 1), np.float32)},
        {"x": (TensorProto.FLOAT, ("n", 3, 4, 4))},
        {"y": TensorProto.FLOAT},
        domains=("com.microsoft",),
    )
    assert described(graph) == {"w": "reaches com.microsoft::Gelu 'g', which is not followed"}


def test_a_matrix_with_an_open_inner_size_stays_whole(write: Any) -> None:
    graph = write(
        [node("MatMul", ["x", "v"], ["h"]), node("MatMul", ["h", "w"], ["y"])],
        {"v": np.ones((3, 4), np.float32), "w": np.ones((4, 2), np.float32)},
        {"x": (TensorProto.FLOAT, ("n", "m"))},
        {"y": TensorProto.FLOAT},
    )
    assert described(graph) == {"v": 4, "w": "feeds the model's output 'y'"}


@pytest.mark.parametrize(
    ("nodes", "extra", "outcome", "axis"),
    [
        ([node("Concat", ["h", "h"], ["z"], axis=2)], {}, 8, 1),
        ([node("Concat", ["h", "h", "h"], ["z"], axis=-3)], {}, 8, 1),
        ([node("Expand", ["h", "k"], ["z"])], {"k": np.array([1, 1, 8, 1, 4])}, 8, 2),
        ([node("Expand", ["h", "k"], ["z"])], {"k": np.array([8, 4, 4])}, 8, 1),
        (
            [node("Pad", ["h", "k", "v", "a"], ["z"])],
            {"k": np.array([1, 0]), "v": np.float32(2), "a": np.array([1])},
            8,
            1,
        ),
        ([node("Pad", ["h", "k"], ["z"])], {"k": np.array([0, -1, 0, 0, 0, 0, 0, 0])}, "crops or mirrors channels", 1),
        (
            [node("Pad", ["h", "k"], ["z"], mode="edge")],
            {"k": np.array([0, 1, 0, 0, 0, 0, 0, 0])},
            "crops or mirrors channels",
            1,
        ),
        ([node("Reshape", ["h", "k"], ["z"])], {"k": np.array([0, 4, 2, 4, -1])}, 2, 2),
        ([node("Reshape", ["h", "k"], ["z"])], {"k": np.array([0, 0, 16])}, 8, 1),
        ([node("Reshape", ["h", "k"], ["z"])], {"k": np.array([0, -1])}, 8, 1),
        (
            [node("Reshape", ["h", "k"], ["z"])],
            {"k": np.array([-1, 64])},
            "merges channels with an axis of open size",
            1,
        ),
        ([node("Flatten", ["h"], ["z"], axis=2)], {}, "merges channels with an axis of open size", 1),
        ([node("Slice", ["h", "s", "e"], ["z"])], {"s": np.array([0, 0]), "e": np.array([9, 99])}, 8, 1),
        (
            [node("Slice", ["h", "s", "e", "a", "t"], ["z"])],
            {"s": np.array([0]), "e": np.array([8]), "a": np.array([-3]), "t": np.array([2])},
            "is changed by Slice",
            1,
        ),
        ([node("Split", ["h"], ["p", "q"], axis=1, num_outputs=2), node("Add", ["p", "q"], ["z"])], {}, 4, 1),
        ([node("Split", ["h"], ["p", "q"], axis=2, num_outputs=2), node("Add", ["p", "q"], ["z"])], {}, 8, 1),
        ([node("Squeeze", ["h"], ["z"])], {}, "does not say which axes it removes", 1),
        ([node("Tile", ["h", "k"], ["z"])], {"k": np.array([1, 1, 2, 1])}, 8, 1),
        ([node("DepthToSpace", ["h"], ["z"], blocksize=2)], {}, 2, 1),
        ([node("DepthToSpace", ["h"], ["z"], blocksize=2, mode="CRD")], {}, 2, 1),
        ([node("SpaceToDepth", ["h"], ["z"], blocksize=2)], {}, 8, 1),
        ([node("Resize", ["h", "", "k"], ["z"])], {"k": np.array([1, 1, 2, 2], np.float32)}, 8, 1),
        ([node("Resize", ["h", "", "k"], ["z"])], {"k": np.array([1, 2, 1, 1], np.float32)}, "is changed by Resize", 1),
        ([node("Resize", ["h", "", "", "k"], ["z"], axes=[1, 3])], {"k": np.array([8, 2])}, 8, 1),
        ([node("ReduceMax", ["h", "k"], ["z"], keepdims=0)], {"k": np.array([-1])}, 8, 1),
        ([node("ReduceMax", ["h"], ["z"])], {}, "is reduced by ReduceMax", 1),
        ([node("ReduceMax", ["h"], ["z"], noop_with_empty_axes=1)], {}, 8, 1),
        ([node("Transpose", ["h"], ["z"])], {}, 8, 2),
        ([node("LogSoftmax", ["h"], ["z"], axis=-3)], {}, "is mixed by LogSoftmax", 1),
        ([node("LogSoftmax", ["h"], ["z"])], {}, 8, 1),
        ([node("Sum", ["h", "k", "v"], ["z"])], {"k": np.ones((8, 1, 1), np.float32), "v": np.float32(3)}, 8, 1),
        ([node("Max", ["h", "k"], ["z"])], {"k": np.ones((1, 8, 1, 1), np.float32)}, 8, 1),
        ([node("Clip", ["h", "k"], ["z"])], {"k": np.float32(-1)}, 8, 1),
        ([node("GatherND", ["h", "k"], ["z"])], {"k": np.array([[0, 1]])}, "is not followed", 1),
    ],
    ids=lambda value: value[0].op_type if isinstance(value, list) else "",
)
def test_an_operator_hands_channels_on_or_blocks_them(
    write: Any,
    check: Check,
    random_keep: Draw,
    nodes: list[onnx.NodeProto],
    extra: dict[str, NDArray[Any]],
    outcome: int | str,
    axis: int,
) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 1, 1)).astype(np.float32), **extra}
    nodes = [node("Conv", ["x", "w"], ["h"]), *nodes]
    inputs, outputs = {"x": (TensorProto.FLOAT, ("n", 3, 4, 4))}, {"y": TensorProto.FLOAT}
    graph = write([*nodes, node("ReduceMean", ["z"], ["y"])], weights, inputs, outputs)
    if isinstance(outcome, str):
        assert outcome in str(described(graph)["w"])
        return
    shape = graph.value_shape("z") or ()
    order = [*(index for index in range(len(shape)) if index != axis), axis]
    reader = [node("Transpose", ["z"], ["moved"], perm=order), node("MatMul", ["moved", "last"], ["y"])]
    weights["last"] = rng.normal(size=(shape[axis] or 1, 2)).astype(np.float32)
    graph = write([*nodes, *reader], weights, inputs, outputs)
    assert described(graph)["w"] == outcome
    for seed in range(4):
        check(graph, random_keep(graph, seed, share=1), seed)
