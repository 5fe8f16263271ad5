"""Intervals of shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.binomial import wilson


def test_wilson_is_the_published_interval() -> None:
    interval = wilson(0.0, 10)
    assert (interval.low, interval.high) == (0.0, pytest.approx(0.2775, abs=1e-4))


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_holds_the_share_and_stays_within_zero_and_one(n: int, share: float) -> None:
    interval = wilson(share, n)
    assert 0.0 <= interval.low <= share <= interval.high <= 1.0
