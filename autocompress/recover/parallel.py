"""One batch in parts, each in a thread of its own.

Torch's own threads share every operator and wait for each other some hundred times a step: small operators gain little
from it, and where another process takes a core away, each of those waits lasts until it comes back. Parts of a batch
meet once a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
#: Fewer samples in a part have no statistics that BatchNormalization could learn from.
SMALLEST_PART = 16


class Parts:
    """Splits batches and runs their parts.

    Args:
        threads: in all.
        whole: never split.
    """

    def __init__(self, threads: int, *, whole: bool = False) -> None:
        self._threads = threads
        self._whole = whole
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def running(self, size: int) -> Iterator[None]:
        """Within, :meth:`each` may be called for batches of ``size``; torch's number of threads is restored after."""
        before = torch.get_num_threads()
        count = len(self.slices(size))
        torch.set_num_threads(max(1, self._threads // count))
        try:
            if count == 1:
                yield
                return
            with ThreadPoolExecutor(count, thread_name_prefix="heal") as self._pool:
                yield
        finally:
            self._pool = None
            torch.set_num_threads(before)

    def slices(self, size: int) -> list[slice]:
        """Nearly equal parts of a batch, as many as there are threads where each is large enough."""
        count = 1 if self._whole else max(1, min(self._threads, size // SMALLEST_PART))
        bounds = [round(index * size / count) for index in range(count + 1)]
        return [slice(low, high) for low, high in itertools.pairwise(bounds)]

    def each(self, function: Callable[[slice], T], size: int) -> list[T]:
        """``function`` of every part, in order; the first error of a part is raised once all have ended."""
        parts = self.slices(size)
        if self._pool is None:
            return [function(part) for part in parts]
        futures = [self._pool.submit(function, part) for part in parts]
        for future in futures:
            future.exception()
        return [future.result() for future in futures]
