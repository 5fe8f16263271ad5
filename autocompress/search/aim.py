"""What longer healing is for: the quality that a run aims at, and how much of the way training goes."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial

#: Loss of quality, as a share, that is allowed where the user set no limit.
USUAL_DROP = 0.01
#: Share of a small gap to the best quality that training at all, and training longer, closes until this run has seen
#: more.
HOPED, HOPED_LONGER = 0.8, 0.6
#: The gap, in allowed losses, of which training closes half that share: what lost much has lost what it cannot learn
#: again in the steps at hand.
_HALVED = 10.0
#: Gaps, in allowed losses, that these two count as much as.
_PRIOR_GAP = 2.0
#: Share of the loss allowed that is aimed at, however rough the figures are.
_LEAST_SHARE = 0.5
#: Shares of that loss at which the cheapest point is wanted: samples flatter what was chosen by them, and a point that
#: loses less on them is there for those who want to be surer.
_WANTED_SHARES = (1.0, 0.65, 0.3)
#: Losses, in allowed ones, up to which trials tell how rough the figures are.
_NEAR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What training is for, and how far it has got in this run.

    Args:
        quality: the objective.
        best: its least loss of any complete trial.
        allowed: loss of quality beyond ``best`` that is allowed.
        error: standard error of the loss of trials about as good as what is aimed at, against the baseline.
        sure: ``allowed`` less that error: what is chosen for being just within the limit on these samples is often
            beyond it on others.
        first: share of a small gap to ``best`` that training closes where none was.
        longer: share that training for longer closes.
    """

    quality: Objective
    best: float
    allowed: float
    error: float
    sure: float
    first: float
    longer: float

    @classmethod
    def of(cls, complete: Sequence[Trial], quality: Objective, constraints: Sequence[Constraint]) -> Aim:
        """From all complete trials; there is at least one."""
        best = min(quality.loss(t.value(quality.metric)) for t in complete)
        baseline = next((t for t in complete if t.plan == CompressionPlan()), None)
        # Without one the best stands in for it.
        top = quality.loss(best) if baseline is None else baseline.value(quality.metric)
        limit = quality.loss(quality_limit(quality.metric, top, constraints))
        allowed = max(limit - best, 0.1 * USUAL_DROP)
        lessons = list(_lessons(complete, quality, best))
        prior = _PRIOR_GAP * allowed
        error = _standard_error(complete, baseline, quality, allowed)

        def share(hoped: float, found: Sequence[tuple[float, float]]) -> float:
            closed = hoped * prior + sum(before - after for before, after in found)
            return min(1.0, max(0.1, closed / (prior + sum(_within_reach(before, allowed) for before, _ in found))))

        return cls(
            quality=quality,
            best=best,
            allowed=allowed,
            error=error,
            sure=max(allowed - error, _LEAST_SHARE * allowed),
            first=share(HOPED, [(before, after) for steps, before, after in lessons if steps == 0]),
            longer=share(HOPED_LONGER, [(before, after) for steps, before, after in lessons if steps > 0]),
        )

    @property
    def limits(self) -> tuple[float, ...]:
        """Gaps whose cheapest points are wanted most: all that is allowed for sure, and parts of it for the careful."""
        return tuple(share * self.sure for share in _WANTED_SHARES)

    def gap(self, trial: Trial) -> float:
        """Loss of quality beyond the best."""
        return self.quality.loss(trial.value(self.quality.metric)) - self.best

    def hoped(self, trial: Trial, times: int = 1) -> float:
        """The gap after being trained for longer so many times, if that does as well as it did for others."""
        return self.hoped_gap(self.gap(trial), healing_steps(trial.plan), times)

    def hoped_gap(self, gap: float, steps: int, times: int = 1) -> float:
        """The same of a gap that is left after some steps of training."""
        for turn in range(times):
            share = self.first if steps == 0 and turn == 0 else self.longer
            gap -= share * _within_reach(gap, self.allowed)
        return gap


def _within_reach(gap: float, allowed: float) -> float:
    """The part of a gap that training may close: nearly all of a small one."""
    return gap / (1.0 + max(gap, 0.0) / (_HALVED * allowed))


def _standard_error(complete: Sequence[Trial], baseline: Trial | None, quality: Objective, allowed: float) -> float:
    """Of the loss of quality of trials about as good as what is aimed at; 0 where there are none.

    From the differences to the baseline in equal parts of the samples, as most are right, or wrong, with both models.
    """
    if baseline is None:
        return 0.0
    metric = quality.metric
    before = np.array(baseline.measurements[metric].samples)
    found = []
    for trial in complete:
        after = np.array(trial.measurements[metric].samples)
        lost = quality.loss(trial.value(metric)) - quality.loss(baseline.value(metric))
        if trial is not baseline and lost <= _NEAR * allowed and len(after) == len(before) > 1:
            found.append(float(np.std(after - before, ddof=1)) / math.sqrt(len(before)))
    return statistics.median(found) if found else 0.0


def _lessons(complete: Sequence[Trial], quality: Objective, best: float) -> Iterator[tuple[int, float, float]]:
    """Steps before, and the gaps before and after, of each plan that was trained for longer than it had been."""
    known: dict[str, list[tuple[int, float]]] = {}
    for trial in complete:
        if trial.plan.distillation is not None:
            gap = quality.loss(trial.value(quality.metric)) - best
            known.setdefault(trial.plan.replace(distillation=None).digest, []).append((healing_steps(trial.plan), gap))
    for found in known.values():
        for (steps, before), (more, after) in itertools.pairwise(sorted(found)):
            # Others were trained as long in another way.
            if more > steps:
                yield steps, before, after


def quality_limit(metric: str, baseline: float, constraints: Sequence[Constraint]) -> float:
    """The least quality allowed: the user's bound, else :data:`USUAL_DROP` below the uncompressed model's."""
    return next((c.bound for c in constraints if c.metric == metric), baseline - USUAL_DROP)


def healing_steps(plan: CompressionPlan) -> int:
    """Training steps of a plan."""
    return plan.distillation.steps if plan.distillation is not None else 0
