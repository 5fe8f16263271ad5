"""Masks of single weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autocompress.compress.sparsity import block_mask, n_of_m_mask, unstructured_mask
from autocompress.core.errors import PlanError

SHAPES = st.sampled_from([(8, 12), (6, 4, 3, 3), (5, 7), (16, 16, 1, 1)])


def _weight(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), ratio=st.floats(0, 0.99))
def test_the_largest_magnitudes_stay(shape: tuple[int, ...], seed: int, ratio: float) -> None:
    weight = _weight(shape, seed)
    mask = unstructured_mask(weight, ratio)
    assert mask.shape == shape
    assert mask.sum() == max(1, round(weight.size * (1 - ratio)))
    if not mask.all():
        assert np.abs(weight[mask]).min() >= np.abs(weight[~mask]).max()


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), low=st.floats(0, 0.98), high=st.floats(0, 0.98))
def test_a_higher_ratio_keeps_a_subset(shape: tuple[int, ...], seed: int, low: float, high: float) -> None:
    weight = _weight(shape, seed)
    low, high = min(low, high), max(low, high)
    for make in (lambda r: unstructured_mask(weight, r), lambda r: block_mask(weight, r, (2, 4))):
        assert not (make(high) & ~make(low)).any()


def test_blocks_go_whole_and_by_their_norm() -> None:
    weight = _weight((8, 12))
    mask = block_mask(weight, 0.5, (2, 4))
    tiles = mask.reshape(4, 2, 3, 4).transpose(0, 2, 1, 3).reshape(12, 8)
    assert (tiles.all(1) | ~tiles.any(1)).all()
    norms = np.square(weight).reshape(4, 2, 3, 4).sum((1, 3)).ravel()
    assert set(np.flatnonzero(tiles.all(1))) == set(np.argsort(-norms)[:6])


def test_blocks_at_the_edge_are_smaller() -> None:
    mask = block_mask(_weight((5, 7)), 0.5, (2, 4))
    assert mask.shape == (5, 7)
    assert len({bool(v) for v in mask[4:, 4:].ravel()}) == 1


@pytest.mark.parametrize("shape", [(8, 16), (4, 8, 3, 3), (4, 10, 1, 1), (3, 6)])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8)])
def test_n_of_every_m_inputs_stay(shape: tuple[int, ...], n: int, m: int) -> None:
    weight = _weight(shape)
    mask = n_of_m_mask(weight, n, m)
    inputs = np.moveaxis(mask, 1, -1).reshape(-1, shape[1])
    values = np.abs(np.moveaxis(weight, 1, -1)).reshape(-1, shape[1])
    for row, magnitudes in zip(inputs, values, strict=True):
        for start in range(0, shape[1], m):
            part, sizes = row[start : start + m], magnitudes[start : start + m]
            assert part.sum() == min(n, len(part))
            assert set(np.flatnonzero(part)) == set(np.argsort(-sizes)[: part.sum()])


def test_ties_are_broken_in_order() -> None:
    weight = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(n_of_m_mask(weight, 2, 4), [[True, True, False, False]] * 2)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(PlanError, match=r"\[0, 1\)"):
        unstructured_mask(_weight((2, 2)), ratio)


def test_other_nonsense_is_refused() -> None:
    with pytest.raises(PlanError, match="0 < n < m"):
        n_of_m_mask(_weight((2, 4)), 4, 4)
    with pytest.raises(PlanError, match="two axes"):
        n_of_m_mask(_weight((4,)), 2, 4)
    with pytest.raises(PlanError, match="block"):
        block_mask(_weight((2, 4)), 0.5, (0, 4))
