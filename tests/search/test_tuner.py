"""The loop: seeds first, resume, budgets, stopping."""

import time
from collections.abc import Sequence

from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.search.tuner import Budget, StopReason, tune


class MemoryStore:
    """A store that lives in a list."""

    def __init__(self) -> None:
        self.items: list[Trial] = []

    def append(self, trial: Trial) -> None:
        self.items.append(trial)

    def trials(self) -> Sequence[Trial]:
        return tuple(self.items)


class FailingEvaluator:
    """Every candidate fails; the loop must go on."""

    def evaluate(self, number: int, candidate: Candidate) -> Trial:
        return Trial(number=number, candidate=candidate, state=TrialState.FAIL, error="build: no")


class Counting:
    """Proposes prune ratios that nobody tried, ``limit`` of them."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def ask(self) -> Candidate | None:
        self.left -= 1
        return candidate(0.01 * (self.left + 2)) if self.left >= 0 else None


def candidate(ratio: float) -> Candidate:
    return Candidate(plan=CompressionPlan(prune={"g": ratio}), source="test")


SEEDS = [candidate(0.9), candidate(0.8)]


def test_seeds_come_before_the_sampler() -> None:
    store = MemoryStore()
    reason = tune(evaluator=FailingEvaluator(), store=store, proposer=Counting(9), seeds=SEEDS, budget=Budget(trials=3))
    assert reason is StopReason.TRIALS
    assert [t.plan.prune["g"] for t in store.items[:2]] == [0.9, 0.8]
    assert [t.number for t in store.items] == [0, 1, 2]


def test_resume_skips_seeds_that_are_done_and_continues_the_numbers() -> None:
    store = MemoryStore()
    for trials in (1, 3):
        tune(evaluator=FailingEvaluator(), store=store, proposer=Counting(9), seeds=SEEDS, budget=Budget(trials=trials))
    assert [t.number for t in store.items] == [0, 1, 2]
    assert len({t.plan.digest for t in store.items}) == 3


def test_it_stops_when_nothing_new_is_left() -> None:
    store = MemoryStore()
    reason = tune(evaluator=FailingEvaluator(), store=store, proposer=Counting(1), seeds=[], budget=Budget())
    assert (reason, len(store.items)) == (StopReason.EXHAUSTED, 1)


def test_a_spent_time_budget_stops_it() -> None:
    store = MemoryStore()
    budget = Budget(seconds=10.0, reserve_seconds=lambda: 11.0)
    reason = tune(evaluator=FailingEvaluator(), store=store, proposer=Counting(9), seeds=SEEDS, budget=budget)
    assert (reason, len(store.items)) == (StopReason.BUDGET, 0)


def test_a_pause_is_not_spent() -> None:
    budget = Budget(seconds=10.0, started=time.monotonic() - 12.0)
    assert budget.spent(0) is StopReason.BUDGET and budget.overrun()
    budget.extend(5.0)
    assert budget.spent(0) is None and not budget.overrun()
    assert 7.0 <= budget.elapsed() < 8.0


def test_it_stops_when_asked() -> None:
    store = MemoryStore()
    reason = tune(
        evaluator=FailingEvaluator(),
        store=store,
        proposer=Counting(9),
        seeds=SEEDS,
        budget=Budget(),
        should_stop=lambda: len(store.items) == 1,
    )
    assert (reason, len(store.items)) == (StopReason.ASKED, 1)
