"""Which entries leave together, against a union-find of its own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.graph.channel_tracker import POSITIONS, ChannelTracker, NotFollowedError, constant, sizes, title

NODE = ir.Node("", "Add", [], name="n")


def initializer(name: str, *shape: int) -> ir.Value:
    graph = ir.Graph([], [], nodes=[])
    value = ir.Value(name=name, const_value=ir.tensor(np.zeros(shape, np.float32), name=name))
    graph.register_initializer(value)
    return value


def find(parents: list[int], entry: int) -> int:
    while parents[entry] != entry:
        entry = parents[entry]
    return entry


@given(st.lists(st.tuples(st.permutations(range(5)), st.integers(0, 3), st.integers(0, 3)), max_size=5))
def test_units_are_what_chains_of_couplings_join(couplings: list[tuple[list[int], int, int]]) -> None:
    tracker = ChannelTracker()
    axes = [tracker.new_ids(5) for _ in range(4)]
    parents = list(range(20))
    for order, first, second in couplings:
        tracker.couple(axes[first], axes[second][order], NODE)
        for one, other in zip(axes[first], axes[second][order], strict=True):
            parents[find(parents, int(one))] = find(parents, int(other))
    units, _ = tracker.units()
    roots = np.array([find(parents, entry) for entry in range(20)])
    np.testing.assert_array_equal(units[:, None] == units, roots[:, None] == roots)


def test_a_block_reaches_all_that_is_coupled_and_the_first_reason_stays() -> None:
    tracker = ChannelTracker()
    first, second, free = (tracker.new_ids(3) for _ in range(3))
    tracker.couple(first, second, NODE)
    tracker.block(first[:1], "is mixed")
    tracker.block(second[:1], "is reduced")
    units, reasons = tracker.units()
    assert reasons == {units[first[0]]: "is mixed"}
    assert units[second[0]] in reasons and units[free[0]] not in reasons


def test_an_axis_that_meets_a_fixed_one_is_blocked() -> None:
    tracker = ChannelTracker()
    ids = tracker.new_ids(2)
    assert tracker.couple(POSITIONS, ids, NODE) == POSITIONS
    units, reasons = tracker.units()
    assert reasons == dict.fromkeys(units.tolist(), "meets an axis that holds positions in Add 'n'")


def test_axes_of_other_sizes_are_not_joined() -> None:
    tracker = ChannelTracker()
    with pytest.raises(NotFollowedError, match="joins axes of 2 and 3 entries"):
        tracker.couple(tracker.new_ids(2), tracker.new_ids(3), NODE)


def test_nothing_to_couple_is_a_fixed_axis() -> None:
    assert ChannelTracker().couple_all([], NODE) == POSITIONS


def test_an_initializer_has_the_same_ids_wherever_it_is_read() -> None:
    tracker, weight = ChannelTracker(), initializer("w", 4, 3)
    first, second = tracker.axes(weight), tracker.axes(weight)
    assert [axis.size for axis in first if not isinstance(axis, str)] == [4, 3]
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert [(value.name, axis) for value, axis, _ in tracker.tracked()] == [("w", 0), ("w", 1)]


def test_of_several_roles_the_strongest_stays() -> None:
    tracker, weight = ChannelTracker(), initializer("w", 4)
    assert tracker.role(weight, 0) == "other"
    for role, then in (("bias", "bias"), ("in", "in"), ("scale", "in"), ("out", "out"), ("in", "out")):
        tracker.set_role(weight, 0, role)  # type: ignore[arg-type]
        assert tracker.role(weight, 0) == then


def test_what_is_not_known_is_said() -> None:
    tracker, unknown = ChannelTracker(), ir.Value(name="v")
    with pytest.raises(NotFollowedError, match="lacks an input"):
        tracker.axes(None)
    with pytest.raises(NotFollowedError, match="'v', whose shape is unknown"):
        tracker.axes(unknown)
    with pytest.raises(NotFollowedError, match="'v', whose shape is unknown"):
        sizes(unknown)
    with pytest.raises(NotFollowedError, match="computes 'v' at run time"):
        constant(ir.Node("", "Reshape", [unknown, unknown]), 1)
    assert constant(NODE, 1) is None
    assert title(ir.Node("other", "Op", [], name="x")) == "other::Op 'x'"
