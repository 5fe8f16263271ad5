"""Cores that a measurement stays on."""

from __future__ import annotations

import os
import threading

import pytest

from autocompress.core.errors import TargetError
from autocompress.measure.affinity import pinned

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")


def test_threads_started_inside_stay_there_and_this_one_goes_back() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    seen: list[set[int]] = []
    go = threading.Event()

    def look() -> None:
        go.wait(10)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=look)
    with pinned([core]):
        assert os.sched_getaffinity(0) == {core}
        thread.start()
    assert os.sched_getaffinity(0) == before
    go.set()
    thread.join()
    assert seen == [{core}]


def test_no_cores_leave_everything_as_it_is() -> None:
    before = os.sched_getaffinity(0)
    with pinned(None):
        assert os.sched_getaffinity(0) == before


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(TargetError, match=r"Cores 8000 cannot be used: this process may run on \d"), pinned([8000]):
        raise AssertionError
