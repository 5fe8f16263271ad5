from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.measure.tvm_worker.tiles import nearest_tiles


@given(st.integers(1, 512), st.lists(st.integers(1, 64), min_size=2, max_size=4), st.sampled_from([0, 8, 64]))
def test_tiles_multiply_to_the_new_extent(extent: int, factors: list[int], largest: int) -> None:
    found = nearest_tiles(extent, factors, largest)
    assert math.prod(found) == extent
    assert len(found) == len(factors)
    assert largest == 0 or found[-1] <= largest


@pytest.mark.parametrize("factors", [[4, 1, 2, 8], [1, 1, 1, 64], [16, 4]])
def test_tiles_of_the_same_extent_stay(factors: list[int]) -> None:
    assert nearest_tiles(math.prod(factors), factors, 64) == factors


def test_a_pruned_extent_keeps_the_inner_tile_that_divides_it() -> None:
    assert nearest_tiles(48, [4, 1, 2, 8], 64) == [3, 1, 2, 8]
