"""Addresses of TVM servers and trackers."""

from __future__ import annotations

import pytest

from autocompress.core.errors import TargetError
from autocompress.measure.transports.tvm_address import TvmAddress, parse_host_port


@pytest.mark.parametrize("url", ["tvm-rpc://pi.local:9090", "tvm-rpc://10.0.0.2:9190/pi4"])
def test_an_address_is_written_as_it_is_read(url: str) -> None:
    assert str(TvmAddress.parse(url)) == url


def test_the_key_says_that_it_is_a_tracker() -> None:
    assert TvmAddress.parse("tvm-rpc://t:9190/pi4") == TvmAddress(host="t", port=9190, key="pi4")


@pytest.mark.parametrize(
    "url", ["tvm-rpc://pi", "tvm-rpc://pi:0", "tvm-rpc://:9090", "tvm-rpc://pi:70000", "ssh://pi:22"]
)
def test_what_is_no_address_says_what_would_be_one(url: str) -> None:
    with pytest.raises(TargetError, match=r"write tvm-rpc://host:port of one server, or tvm-rpc://host:port/key"):
        TvmAddress.parse(url)


def test_an_ipv6_host_stands_in_brackets() -> None:
    assert parse_host_port("[::1]:9090") == ("::1", 9090)
