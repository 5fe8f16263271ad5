"""Processor cores that a measurement stays on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from autocompress.core.errors import TargetError, UserError


def check_threads(threads: int, cores: Sequence[int] | None) -> None:
    """Refuse more threads than there are cores for them: they would wait for one another.

    Raises:
        UserError: there are more.
    """
    if cores is not None and threads > len(cores):
        raise UserError(
            f"{threads} threads do not fit on {len(cores)} core{'s' * (len(cores) != 1)} of --affinity: give more cores"
            " or fewer threads."
        )


@contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread, and those that it starts, on some cores; where it ran before afterwards.

    Threads that were started here stay on them for good: those of a runtime's pool, of a model that was loaded here.

    Args:
        cores: numbers as the system counts them; None leaves everything as it is.

    Raises:
        TargetError: this process may not use them, or the system knows no affinity.
    """
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise TargetError("This system cannot keep a process on chosen cores: leave --affinity out.")
    before = os.sched_getaffinity(0)
    missing = sorted(set(cores) - before)
    if missing:
        raise TargetError(
            f"Cores {','.join(map(str, missing))} cannot be used: this process may run on "
            f"{','.join(map(str, sorted(before)))}."
        )
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
