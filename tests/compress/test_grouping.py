"""Groups of a weight: which numbers share a scale, and that nothing is lost on the way there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.compress.grouping import GroupedWeight, Grouping, rows_in_groups

GRANULARITIES = st.sampled_from(["tensor", "channel", "block"])
SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


@given(SHAPES, st.integers(0, 3), GRANULARITIES, st.integers(1, 9))
def test_what_is_cut_is_put_together_again(shape: tuple[int, ...], axis: int, granularity: str, size: int) -> None:
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    grouping = Grouping(shape=shape, axis=axis % len(shape), granularity=granularity, block_size=size)
    np.testing.assert_array_equal(grouping.join(grouping.split(weight)), weight)


@given(SHAPES, st.integers(0, 3), st.integers(1, 9))
def test_a_block_holds_neighbours_of_one_channel(shape: tuple[int, ...], axis: int, size: int) -> None:
    axis %= len(shape)
    channel = np.broadcast_to(
        np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape
    )
    grouping = Grouping(shape=shape, axis=axis, granularity="block", block_size=size)
    groups = grouping.split(1 + channel.astype(np.float32))
    assert groups.shape == (shape[axis], grouping.blocks, size)
    for row, blocks in enumerate(groups):
        assert set(np.unique(blocks)) <= {0, 1 + row}
    assert np.count_nonzero(groups) == np.prod(shape)


def test_a_scale_a_channel_lies_along_its_axis() -> None:
    channel = Grouping(shape=(4, 3, 2), axis=1, granularity="channel")
    assert channel.spread(np.ones((3, 1))).shape == (1, 3, 1)
    assert Grouping(shape=(4, 3), axis=0, granularity="tensor").spread(np.ones((1, 1))).shape == ()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("kind", ["plain", "zero", "table"])
def test_codes_stand_for_what_is_said_number_for_number(granularity: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    grouping = Grouping(shape=(3, 5), axis=1, granularity=granularity, block_size=2)
    shape = grouping.split(np.zeros((3, 5), np.float32)).shape
    table = np.float32([-1.5, 0, 0.25, 4]) if kind == "table" else None
    codes: Any = rng.integers(0, 4, shape).astype(np.uint8 if kind == "table" else np.int8)
    scale = rng.uniform(0.5, 2, shape[:2]).astype(np.float32)
    zero = rng.integers(0, 3, shape[:2]).astype(np.int8) if kind == "zero" else None
    found = GroupedWeight(grouping=grouping, codes=codes, scale=scale, zero=zero, table=table).dequantized()
    places = grouping.join(np.arange(codes.size).reshape(shape))
    for at in np.ndindex(3, 5):
        row, group, entry = np.unravel_index(int(places[at]), shape)
        code = codes[row, group, entry]
        real = np.float32(code) if table is None else table[code]
        if zero is not None:
            real = real - np.float32(zero[row, group])
        assert found[at] == real * scale[row, group]


def test_rows_in_groups_are_those_of_the_cut() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    grouping = Grouping(shape=(3, 4), axis=0, granularity="block", block_size=3)
    rows, shape = rows_in_groups(array, grouping)
    assert shape == (3, 2, 3)
    np.testing.assert_array_equal(rows, [[0, 1, 2], [3, 0, 0], [4, 5, 6], [7, 0, 0], [8, 9, 10], [11, 0, 0]])
