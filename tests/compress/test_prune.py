"""Which channels stay, and what a graph looks like without the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autocompress.compress.prune import kept_entries, kept_values, prune, select_kept
from autocompress.core.errors import PlanError
from autocompress.core.layer import PruneGroup, kept_channels
from autocompress.core.plan import CompressionPlan
from autocompress.graph.model_graph import ModelGraph

Run = Callable[[ModelGraph, Any], Any]


def group(name: str, channels: int, blocked: str | None = None) -> PruneGroup:
    return PruneGroup(name=name, channels=channels, members=(), blocked=blocked)


def ratios(**prune: float) -> CompressionPlan:
    return CompressionPlan(prune=prune)


def everywhere(ratio: float) -> CompressionPlan:
    return CompressionPlan(prune={"*": ratio})


A = group("a", 6)
SCORES = {"a": np.array([3.0, 1.0, 5.0, 4.0, 0.0, 2.0])}


def test_the_highest_scores_stay_in_their_order() -> None:
    np.testing.assert_array_equal(select_kept([A], SCORES, ratios(a=0.5))["a"], [0, 2, 3])


def test_of_equal_scores_the_first_stay() -> None:
    np.testing.assert_array_equal(select_kept([A], {"a": np.ones(6)}, ratios(a=0.5))["a"], [0, 1, 2])


def test_a_group_that_loses_nothing_is_not_named_and_needs_no_score() -> None:
    assert select_kept([A, group("b", 4)], SCORES, ratios(a=0.5, b=0.0)).keys() == {"a"}


def test_a_ratio_too_small_for_one_channel_keeps_all() -> None:
    assert select_kept([A], {}, ratios(a=0.05)) == {}


def test_one_channel_always_stays() -> None:
    np.testing.assert_array_equal(select_kept([A], SCORES, ratios(a=0.999))["a"], [2])


def test_the_default_ratio_is_for_groups_without_one_of_their_own() -> None:
    scores = {**SCORES, "b": np.arange(4.0)}
    kept = select_kept([A, group("b", 4)], scores, CompressionPlan(prune={"*": 0.5, "b": 0.25}))
    assert {name: len(units) for name, units in kept.items()} == {"a": 3, "b": 3}


def test_the_default_ratio_passes_over_blocked_groups() -> None:
    assert select_kept([A, group("fc", 4, "feeds the output")], SCORES, everywhere(0.5)).keys() == {"a"}


def test_a_blocked_group_may_be_named_with_nothing_to_lose() -> None:
    assert select_kept([group("fc", 4, "feeds the output")], {}, ratios(fc=0.0)) == {}


def test_a_blocked_group_says_why() -> None:
    with pytest.raises(PlanError, match="Group 'fc' cannot be pruned: it feeds the output"):
        select_kept([group("fc", 4, "feeds the output")], {}, ratios(fc=0.5))


def test_an_unknown_group_gets_the_nearest_name() -> None:
    with pytest.raises(PlanError, match=r"Unknown prune group 'layer1\.conv'; did you mean 'layer1\.conv1'"):
        select_kept([group("layer1.conv1", 4)], {}, CompressionPlan(prune={"layer1.conv": 0.5}))


@pytest.mark.parametrize(
    ("scores", "got"), [({}, "none"), ({"a": np.ones(5)}, r"shape \(5,\)"), ({"a": np.ones((6, 1))}, r"shape \(6, 1\)")]
)
def test_scores_must_fit_the_group(scores: dict[str, NDArray[Any]], got: str) -> None:
    with pytest.raises(PlanError, match=f"Group 'a' needs a score for each of 6 units, but got {got}"):
        select_kept([A], scores, ratios(a=0.5))


@given(channels=st.integers(1, 200), ratio=st.floats(0, 0.99), multiple=st.sampled_from([1, 4, 8, 16, 32]))
def test_a_width_rounded_to_a_multiple_is_what_is_selected(channels: int, ratio: float, multiple: int) -> None:
    wanted = kept_channels(channels, ratio, multiple)
    kept = select_kept([group("a", channels)], {"a": np.arange(channels) * 1.0}, ratios(a=1 - wanted / channels))
    assert len(kept.get("a", np.arange(channels))) == wanted


@given(
    scores=st.lists(st.integers(0, 5), min_size=2, max_size=40), pair=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))
)
def test_a_higher_ratio_keeps_a_subset(scores: list[int], pair: tuple[float, float]) -> None:
    whole = np.arange(len(scores))
    low, high = (
        select_kept([group("a", len(scores))], {"a": np.array(scores, float)}, ratios(a=ratio)).get("a", whole)
        for ratio in sorted(pair)
    )
    assert set(high) <= set(low)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([], "must keep a list of at least one unit"),
        ([[0, 1]], "must keep a list of at least one unit"),
        ([0.0, 1.0], "must keep a list of at least one unit"),
        ([1, 0], "must be sorted, each once, within 0 to 15"),
        ([0, 0], "must be sorted, each once, within 0 to 15"),
        ([-1, 0], "must be sorted, each once, within 0 to 15"),
        ([3, 16], "must be sorted, each once, within 0 to 15"),
    ],
)
def test_units_that_cannot_stay_are_refused(kept: list[Any], message: str, small: ModelGraph) -> None:
    with pytest.raises(PlanError, match=f"group 'a' {message}|Group 'a' {message}"):
        prune(small, {"a": np.array(kept)})


def test_unsigned_units_out_of_order_are_refused(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="must be sorted"):
        prune(small, {"a": np.array([5, 2], np.uint8)})


def test_pruning_a_blocked_group_is_refused(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="Group 'fc' cannot be pruned: it feeds the model's output 'fc'"):
        prune(small, {"fc": np.array([0])})


def test_pruning_an_unknown_group_is_refused(small: ModelGraph) -> None:
    with pytest.raises(PlanError, match="Unknown prune group 'conv9'; known: a, fc"):
        prune(small, {"conv9": np.array([0])})


@pytest.mark.parametrize("keep", [{}, {"a": np.arange(16)}])
def test_nothing_removed_is_the_same_graph(keep: dict[str, NDArray[np.intp]], small: ModelGraph) -> None:
    pruned = prune(small, keep)
    assert pruned is not small
    assert pruned.digest == small.digest


def test_every_coupled_weight_is_sliced(small: ModelGraph) -> None:
    kept = np.array([1, 4, 15])
    pruned, before = prune(small, {"a": kept}).initializers, small.initializers
    np.testing.assert_array_equal(pruned["a.weight"], before["a.weight"][kept])
    np.testing.assert_array_equal(pruned["a.bias"], before["a.bias"][kept])
    np.testing.assert_array_equal(pruned["b.weight"], before["b.weight"][kept][:, kept])
    np.testing.assert_array_equal(pruned["b.bias"], before["b.bias"][kept])
    np.testing.assert_array_equal(pruned["fc.weight"], before["fc.weight"][:, kept])


def test_weights_that_lose_nothing_share_their_memory(demo: ModelGraph) -> None:
    name = next(g.name for g in demo.groups() if g.name == "layer1.0.conv1")
    pruned = prune(demo, {name: np.arange(8)})
    assert np.shares_memory(pruned.initializers["fc.weight"], demo.initializers["fc.weight"])
    assert pruned.initializers["layer1.0.conv1.weight"].shape[0] == 8


def test_the_graph_itself_stays_as_it_was(small: ModelGraph) -> None:
    before = small.to_bytes()
    prune(small, {"a": np.arange(4)})
    assert small.to_bytes() == before


def test_pruning_makes_the_same_bytes_each_time(small: ModelGraph) -> None:
    keep = {"a": np.array([0, 7])}
    assert prune(small, keep).to_bytes() == prune(small, keep).to_bytes()


def test_names_stay(demo: ModelGraph) -> None:
    keep = {g.name: np.arange((g.channels + 1) // 2) for g in demo.groups() if g.prunable}
    pruned = prune(demo, keep)
    assert [layer.name for layer in pruned.layers()] == [layer.name for layer in demo.layers()]
    assert pruned.output_names == demo.output_names
    assert list(pruned.values) == list(demo.values)


def test_half_the_channels_leave_about_a_quarter_of_the_work(demo: ModelGraph) -> None:
    pruned = prune(demo, {g.name: np.arange(g.channels // 2) for g in demo.groups() if g.prunable})
    assert 0.24 < pruned.macs() / demo.macs() < 0.27


def test_kept_entries_are_what_pruning_keeps(demo: ModelGraph) -> None:
    rng = np.random.default_rng(0)
    keep = {g.name: np.sort(rng.permutation(g.channels)[: g.channels // 3]) for g in demo.groups() if g.prunable}
    entries, pruned = kept_entries(demo, keep), prune(demo, keep)
    for name, array in demo.initializers.items():
        for axis, kept in entries.get(name, {}).items():
            array = array.take(kept, axis)
        np.testing.assert_array_equal(pruned.initializers[name], array)


def test_kept_values_fit_the_pruned_shapes(demo: ModelGraph) -> None:
    keep = {g.name: np.arange(1, g.channels, 2) for g in demo.groups() if g.prunable}
    values, pruned = kept_values(demo, keep), prune(demo, keep)
    assert values
    for name, axes in values.items():
        shape = pruned.value_shape(name)
        assert shape is not None
        assert {axis: shape[axis] for axis in axes} == {axis: len(kept) for axis, kept in axes.items()}


def nodes_of(graph: ModelGraph, op_type: str) -> list[Any]:
    return [node for node in graph.model.graph if node.op_type == op_type]


def test_a_depthwise_convolution_has_as_many_groups_as_channels(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.conv(made.node("Relu", [made.conv("x", "a", 8, 3)], "r"), "b", 8, 1, group=8)
    made.conv("b", "c", 5, 8)
    pruned = prune(made.graph("c"), {"a": np.array([0, 3, 4])})
    assert nodes_of(pruned, "Conv")[1].attributes.get_int("group") == 3
    assert run_graph(pruned, images[:2]).shape == (2, 5, 8, 8)


def test_a_grouped_convolution_keeps_its_groups(net: Any, images: Any, run_graph: Run) -> None:
    made = net(3, 8, 8)
    made.conv(made.conv(made.conv("x", "a", 8, 3), "b", 12, 4, group=2), "c", 5, 12)
    pruned = prune(made.graph("c"), {"a": np.array([1, 2, 3]), "b": np.array([0])})
    assert nodes_of(pruned, "Conv")[1].attributes.get_int("group") == 2
    assert pruned.initializers["b.weight"].shape == (2, 3, 3, 3)
    assert run_graph(pruned, images[:2]).shape == (2, 5, 8, 8)


def shapes_and_splits(net: Any, *last: tuple[str, list[str], dict[str, Any]]) -> ModelGraph:
    """conv ``a`` of 8 channels, the given nodes up to ``z`` of as many, and a convolution ``c`` of 5 channels."""
    made = net(3, 4, 4)
    made.conv("x", "a", 8, 3)
    made.constant("flat", np.array([0, 8, 16]))
    made.constant("image", np.array([0, 8, 4, 4]))
    made.constant("sizes", np.array([3, 5]))
    made.constant("larger", np.array([1, 8, 8, 8]))
    for number, (op_type, inputs, settings) in enumerate(last):
        made.node(op_type, inputs, "z" if number == len(last) - 1 else f"h{number}", **settings)
    made.conv("z", "c", 5, 8)
    return made.graph("c")  # type: ignore[no-any-return]


def test_a_reshape_gets_the_new_size_in_its_target(net: Any) -> None:
    graph = shapes_and_splits(net, ("Reshape", ["a", "flat"], {}), ("Reshape", ["h0", "image"], {}))
    pruned = prune(graph, {"a": np.array([0, 5])})
    targets = [pruned.initializers[str(n.inputs[1].name)].tolist() for n in nodes_of(pruned, "Reshape")]
    assert targets == [[0, 2, 16], [0, 2, 4, 4]]


def test_a_target_that_two_nodes_share_is_changed_for_one_alone(net: Any, run_graph: Run) -> None:
    made = net(3, 4, 4)
    made.constant("flat", np.array([0, 8, 16]))
    made.node("Reshape", [made.conv("x", "a", 8, 3), "flat"], "p")
    made.node("Reshape", [made.conv("x", "b", 8, 3), "flat"], "y")
    made.node("MatMul", [made.constant("m", made.normal(3, 8)), "p"], "q")
    graph = made.graph("q", "y")
    pruned = prune(graph, {"a": np.array([0, 5])})
    assert pruned.initializers["flat"].tolist() == [0, 8, 16]
    assert run_graph(pruned, np.zeros((1, 3, 4, 4), np.float32)).shape == (1, 3, 16)


def test_a_target_that_nothing_reads_any_more_goes(net: Any) -> None:
    graph = shapes_and_splits(net, ("Reshape", ["a", "flat"], {}), ("Reshape", ["h0", "image"], {}))
    assert {"flat", "image"} <= set(graph.initializers)
    assert not {"flat", "image"} & set(prune(graph, {"a": np.array([0])}).initializers)


def test_a_split_into_equal_parts_gets_sizes(net: Any, run_graph: Run) -> None:
    made = net(3, 4, 4)
    made.conv("x", "a", 8, 3)
    made._nodes.append(onnx.helper.make_node("Split", ["a"], ["p", "q"], axis=1, num_outputs=2, name="cut"))
    made.node("Concat", [made.conv("p", "c", 2, 4), made.conv("q", "d", 3, 4)], "y", axis=1)
    graph = made.graph("y")
    pruned = prune(graph, {"a": np.array([1, 2, 3]), "a:2": np.array([0])})
    (cut,) = nodes_of(pruned, "Split")
    assert "num_outputs" not in cut.attributes
    assert pruned.initializers[str(cut.inputs[1].name)].tolist() == [3, 1]
    assert run_graph(pruned, np.zeros((1, 3, 4, 4), np.float32)).shape == (1, 5, 4, 4)


def test_a_resize_to_named_sizes_gets_the_new_ones(net: Any, run_graph: Run) -> None:
    made = net(3, 4, 4)
    made.constant("size", np.array([8, 8, 8]))
    made.node("Resize", [made.conv("x", "a", 8, 3), "", "", "size"], "z", axes=[1, 2, 3])
    made.conv("z", "c", 5, 8)
    pruned = prune(made.graph("c"), {"a": np.array([1, 2, 3])})
    assert pruned.initializers[str(nodes_of(pruned, "Resize")[0].inputs[3].name)].tolist() == [3, 8, 8]
    assert run_graph(pruned, np.zeros((1, 3, 4, 4), np.float32)).shape == (1, 5, 8, 8)


def test_an_expand_gets_the_new_size(net: Any, run_graph: Run) -> None:
    made = net(3, 4, 4)
    made.constant("wide", np.array([1, 8, 4, 4]))
    made.node("GlobalAveragePool", [made.conv("x", "a", 8, 3)], "p")
    made.node("Expand", ["p", "wide"], "z")
    made.conv("z", "c", 5, 8)
    pruned = prune(made.graph("c"), {"a": np.array([1, 2, 3])})
    assert pruned.initializers[str(nodes_of(pruned, "Expand")[0].inputs[1].name)].tolist() == [1, 3, 4, 4]
    assert run_graph(pruned, np.zeros((2, 3, 4, 4), np.float32)).shape == (2, 5, 4, 4)


def test_every_node_reads_constants_of_its_own_name(net: Any) -> None:
    graph = shapes_and_splits(net, ("Reshape", ["a", "flat"], {}), ("Reshape", ["h0", "image"], {}))
    once = prune(graph, {"a": np.array([0, 1, 2, 3])})
    twice = prune(once, {"a": np.array([0, 1])})
    onnx.checker.check_model(onnx.load_from_string(twice.to_bytes()))
    assert twice.value_shape("h0") == (None, 2, 16)
