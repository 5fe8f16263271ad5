"""Runs of a Reshape: the entries of a run, counted in order, are the same before and after."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from autocompress.graph.channel_runs import Run, reshape_runs

Dim = int | str


def runs(before: list[Dim], after: list[Dim]) -> list[Run]:
    """Names stand for open sizes, "?" for one without a name."""
    source, result = (
        ir.Value(name=name, shape=ir.Shape([None if d == "?" else d for d in dims]))
        for name, dims in (("x", before), ("y", after))
    )
    return reshape_runs(ir.Node("", "Reshape", [source, None], outputs=[result]))


def places(found: list[Run]) -> list[tuple[list[int], list[int]]]:
    return [(list(run.before), list(run.after)) for run in found]


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two ways to multiply the same small factors."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=5))

    def cut() -> list[int]:
        ends = sorted(draw(st.sets(st.integers(1, len(factors)), max_size=4)) | {len(factors)})
        return [math.prod(factors[a:b]) for a, b in itertools.pairwise([0, *ends])]

    return cut(), cut()


@given(reshapes())
def test_an_entry_has_the_same_place_in_its_run_before_and_after(shapes: tuple[list[int], list[int]]) -> None:
    before, after = shapes
    found = runs(list(before), list(after))
    assert [axis for run in found for axis in run.before] == list(range(len(before)))
    assert [axis for run in found for axis in run.after] == list(range(len(after)))
    flat = np.arange(math.prod(before))
    old, new = np.unravel_index(flat, before), np.unravel_index(flat, after)
    for run in found:
        first, second = (
            sum(at[axis] * math.prod(sizes[axis + 1 : axes.stop]) for axis in axes)
            for at, sizes, axes in ((old, before, run.before), (new, after, run.after))
        )
        np.testing.assert_array_equal(first, second)


def test_runs_are_as_short_as_can_be() -> None:
    assert places(runs([2, 12, 5, 5], [2, 3, 4, 25])) == [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    assert places(runs([2, 6, 4], [2, 24])) == [([0], [0]), ([1, 2], [1])]
    assert places(runs([4, 6], [6, 4])) == [([0, 1], [0, 1])]


def test_open_sizes_are_told_apart_by_their_names() -> None:
    assert places(runs(["batch", 4, 6], ["batch", 24])) == [([0], [0]), ([1, 2], [1])]
    assert places(runs(["batch", "time", 8], ["batch", "time", 2, 4])) == [([0], [0]), ([1], [1]), ([2], [2, 3])]
    assert places(runs(["batch", 3, 8], ["?", 8])) == [([0, 1], [0]), ([2], [1])]


def test_an_axis_that_stays_is_a_run_of_its_own() -> None:
    first, second = runs(["batch", 12], ["batch", 3, 4])
    assert (first.same, second.same) == (True, False)
    assert (second.old_sizes, second.new_sizes) == ((12,), (3, 4))


def test_what_cannot_be_told_is_one_run_without_sizes() -> None:
    (run,) = runs(["a", "b", 6], ["?", "?"])
    assert (run.old_sizes, run.new_sizes, run.same) == (None, None, False)
    (run,) = runs([5, 3], [4, 4])
    assert run.old_sizes is None
