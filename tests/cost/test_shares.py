"""What pruning leaves of every axis."""

import numpy as np
import pytest

from autocompress.core.layer import GroupMember, LayerInfo, PruneGroup
from autocompress.cost.shares import MacModel, Shares
from autocompress.graph.model_graph import ModelGraph


def test_macs_shrink_with_both_axes_of_a_weight(graph: ModelGraph) -> None:
    model = MacModel(graph.layers(), graph.groups())
    conv1, conv2, fc = (layer.macs for layer in graph.layers())
    assert model.macs({}) == graph.macs()
    assert model.macs({"conv1": 0.5}) == conv1 / 2 + conv2 / 2 + fc
    assert model.macs({"conv1": 0.5, "conv2": 0.75}) == conv1 / 2 + conv2 / 8 + fc / 4


def test_the_default_ratio_reaches_every_group(graph: ModelGraph) -> None:
    model = MacModel(graph.layers(), graph.groups())
    assert model.macs({"*": 0.5}) == model.macs({"conv1": 0.5, "conv2": 0.5})


def test_saved_is_a_share_of_the_whole(graph: ModelGraph) -> None:
    model = MacModel(graph.layers(), graph.groups())
    assert model.saved({}) == 0
    assert model.saved({"*": 0.5}) == pytest.approx(1 - model.macs({"*": 0.5}) / graph.macs())


def test_an_axis_behind_a_concat_loses_what_each_group_gives() -> None:
    first = GroupMember(initializer="w", axis=1, indices=np.arange(4)[:, None], role="in")
    second = GroupMember(initializer="w", axis=1, indices=4 + np.arange(12)[:, None], role="in")
    groups = [
        PruneGroup(name="a", channels=4, members=(first,)),
        PruneGroup(name="b", channels=12, members=(second,)),
    ]
    shares = Shares(groups, {"w": (8, 16)})
    assert shares.share("w", shares.removed({"a": 0.5})) == pytest.approx(14 / 16)
    assert shares.share("w", shares.removed({"a": 0.5, "b": 0.5})) == pytest.approx(8 / 16)


def test_a_channel_may_own_several_entries() -> None:
    member = GroupMember(initializer="w", axis=1, indices=np.arange(64).reshape(4, 16), role="in")
    shares = Shares([PruneGroup(name="a", channels=4, members=(member,))], {"w": (8, 64)})
    assert shares.share("w", shares.removed({"a": 0.25})) == pytest.approx(0.75)


def test_blocked_groups_lose_nothing() -> None:
    layer = LayerInfo(
        name="c", op_type="Conv", weight="w", weight_shape=(4, 4, 1, 1), out_shape=(1, 4, 1, 1), macs=16, params=16,
        prune_group="a", node="n",
    )  # fmt: skip
    member = GroupMember(initializer="w", axis=0, indices=np.arange(4)[:, None], role="out")
    model = MacModel([layer], [PruneGroup(name="a", channels=4, members=(member,), blocked="feeds an output")])
    assert model.macs({"a": 0.5}) == 16
