"""What may be spent on schedules of TVM's kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autocompress.core.errors import UserError


@dataclass(slots=True, kw_only=True)
class Tuning:
    """What may be spent on schedules, and what was.

    Args:
        trials: schedules to time for each kernel that has none; 0 runs kernels untuned where none is known.
        seconds: for all models together; None for no limit.
        transfer: whether a kernel may take over its nearest neighbour's schedule in place of being tuned.
        spent: seconds so far.
    """

    trials_usual: ClassVar[int] = 16

    trials: int = 0
    seconds: float | None = None
    transfer: bool = True
    spent: float = 0.0

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise UserError(f"`--tune-trials` must be at least 0, but got {self.trials}.")

    @property
    def left(self) -> float | None:
        """Seconds that may still be spent; None for no limit."""
        return None if self.seconds is None else max(0.0, self.seconds - self.spent)
