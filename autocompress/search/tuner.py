"""The search loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from autocompress.core.errors import Interrupted
from autocompress.core.protocols import Evaluator, TrialStore
from autocompress.core.trial import Candidate, Trial

#: Share of the time budget by which the last trial may run over.
GRACE = 0.05


class Proposer(Protocol):
    """Proposes candidates from what the store holds."""

    def ask(self) -> Candidate | None:
        """The next candidate; None when nothing new is left to propose."""


class StopReason(StrEnum):
    """Why a search ended."""

    TRIALS = "all trials are done"
    BUDGET = "the time budget is spent"
    EXHAUSTED = "nothing new is left to try"
    ASKED = "it was asked to stop"


@dataclass(slots=True, kw_only=True)
class Budget:
    """How long to go on.

    Args:
        trials: trials in the store at which to stop; None for no limit.
        seconds: of this session; None for no limit.
        reserve_seconds: kept back for re-measuring the front; may grow as the front does.
    """

    trials: int | None = None
    seconds: float | None = None
    reserve_seconds: Callable[[], float] = field(default=lambda: 0.0)
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self.started

    def left(self) -> float | None:
        """Seconds left for trials; None without a time limit."""
        return None if self.seconds is None else self.seconds - self.reserve_seconds() - self.elapsed()

    def whole_left(self) -> float:
        """Seconds left for everything; infinite without a time limit."""
        return math.inf if self.seconds is None else max(0.0, self.seconds - self.elapsed())

    def overrun(self) -> bool:
        """Whether the trial in flight runs past the time for trials by more than :data:`GRACE` of it."""
        left = self.left()
        return left is not None and self.seconds is not None and left < -GRACE * self.seconds

    def extend(self, seconds: float) -> None:
        """Do not count these seconds: a device was waited for."""
        self.started += seconds

    def spent(self, n_trials: int) -> StopReason | None:
        """Why to stop now, or None."""
        if self.trials is not None and n_trials >= self.trials:
            return StopReason.TRIALS
        left = self.left()
        return StopReason.BUDGET if left is not None and left <= 0 else None


def tune(
    *,
    evaluator: Evaluator,
    store: TrialStore,
    proposer: Proposer,
    seeds: Iterable[Candidate],
    budget: Budget,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> StopReason:
    """Evaluate the seeds that are not in the store yet, then what the sampler proposes, until the budget is spent.

    Every trial is durable in ``store`` before the next one starts; running again on the same store resumes.

    Returns:
        Why it stopped.
    """
    tried = {trial.plan.digest for trial in store.trials()}
    # Seeds may depend on those before them: each is asked for when it is due.
    queue = (seed for seed in seeds if seed.plan.digest not in tried)
    number = max((trial.number for trial in store.trials()), default=-1) + 1
    count = len(store.trials())
    while True:
        if should_stop():
            return StopReason.ASKED
        reason = budget.spent(count)
        if reason is not None:
            return reason
        candidate = next(queue, None) or proposer.ask()
        if candidate is None:
            return StopReason.EXHAUSTED
        try:
            trial = evaluator.evaluate(number, candidate)
        except Interrupted:
            return StopReason.ASKED if should_stop() else StopReason.BUDGET
        store.append(trial)
        tried.add(trial.plan.digest)
        on_trial(trial)
        number = max(number, trial.number) + 1
        count += 1
