"""Batches in parts."""

from __future__ import annotations

import threading

import pytest
import torch

from autocompress.core.plan import DistillationPlan
from autocompress.recover.distill import Distiller
from autocompress.recover.parallel import SMALLEST_PART, Parts


@pytest.mark.parametrize(("threads", "size", "count"), [(2, 64, 2), (4, 64, 4), (16, 64, 4), (2, 20, 1), (1, 64, 1)])
def test_parts_are_nearly_equal_and_large_enough(threads: int, size: int, count: int) -> None:
    slices = Parts(threads).slices(size)
    assert len(slices) == count
    sizes = [part.stop - part.start for part in slices]
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    assert count == 1 or min(sizes) >= SMALLEST_PART


def test_parts_of_a_whole_batch_are_one() -> None:
    assert Parts(4, whole=True).slices(64) == [slice(0, 64)]


def test_each_part_has_a_thread_and_results_are_in_order() -> None:
    parts = Parts(2)
    barrier = threading.Barrier(2, timeout=30)

    def part_of_it(part: slice) -> int:
        barrier.wait()
        return part.start

    with parts.running(64):
        assert parts.each(part_of_it, 64) == [0, 32]


def test_torchs_threads_are_divided_and_restored() -> None:
    before = torch.get_num_threads()
    parts = Parts(4)
    with parts.running(32):
        assert parts.each(lambda part: torch.get_num_threads(), 32) == [2, 2]
    assert torch.get_num_threads() == before


def test_an_error_in_a_part_is_raised_after_all_have_ended() -> None:
    ended = []

    def part_of_it(part: slice) -> None:
        if part.start == 0:
            raise ValueError("first")
        ended.append(part)

    parts = Parts(2)
    with pytest.raises(ValueError, match="first"), parts.running(64):
        parts.each(part_of_it, 64)
    assert len(ended) == 1


def test_the_same_seed_gives_the_same_weights_with_two_threads(small, small_pruned, unlabelled, same_weights) -> None:  # type: ignore[no-untyped-def]
    plan = DistillationPlan(steps=4, learning_rate=0.02, batch_size=64)
    first, second = (Distiller(small, unlabelled, threads=2).heal(small_pruned, plan, steps=4).graph for _ in range(2))
    assert same_weights(first, second)
