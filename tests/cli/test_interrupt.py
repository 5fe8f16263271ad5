"""Ctrl-C once and twice."""

from __future__ import annotations

import os
import signal

import pytest

from autocompress.cli.interrupt import GentleInterrupt


def _press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_only_asks() -> None:
    said: list[str] = []
    with GentleInterrupt(said.append) as interrupt:
        assert not interrupt.asked
        _press()
        assert interrupt.asked
    assert len(said) == 1


def test_the_second_stops_at_once() -> None:
    with GentleInterrupt(lambda text: None):
        _press()
        with pytest.raises(KeyboardInterrupt):
            _press()


def test_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with GentleInterrupt(lambda text: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
