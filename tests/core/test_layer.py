"""Rounding of channel counts."""

from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.layer import kept_channels

CHANNELS = st.integers(1, 300)
RATIOS = st.floats(0, 0.999)
MULTIPLES = st.sampled_from([1, 2, 4, 8, 16, 32])


@given(CHANNELS, RATIOS, RATIOS, MULTIPLES)
def test_a_higher_ratio_never_keeps_more(channels: int, a: float, b: float, multiple: int) -> None:
    low, high = sorted((a, b))
    assert kept_channels(channels, high, multiple) <= kept_channels(channels, low, multiple)


@given(CHANNELS, RATIOS, MULTIPLES)
def test_kept_is_a_multiple_or_all(channels: int, ratio: float, multiple: int) -> None:
    kept = kept_channels(channels, ratio, multiple)
    assert 1 <= kept <= channels
    assert kept == channels or kept % multiple == 0


@given(CHANNELS, st.data())
def test_a_ratio_made_from_a_count_gives_that_count(channels: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, channels))
    assert kept_channels(channels, 1 - kept / channels) == kept
