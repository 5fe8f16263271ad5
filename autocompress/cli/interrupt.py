"""Ctrl-C: once asks for a clean stop, twice stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class GentleInterrupt:
    """While entered, the first Ctrl-C only sets a flag and says so; the next raises KeyboardInterrupt.

    Args:
        announce: told once, at the first Ctrl-C.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._previous: Any = None
        self.asked = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._announce("Stopping after the running stage; press Ctrl-C again to stop at once. Both can be resumed.")
