"""What longer healing is for: the quality that a run aims at, and how much of the way training goes."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.trial import Trial

#: Loss of quality, as a share, that is allowed where the user set no limit.
USUAL_DROP = 0.01
#: Share of a small gap to the best quality that training at all, and each doubling of the steps, closes until this run
#: has seen more.
HOPED, HOPED_LONGER = 0.8, 0.37
#: The least and the most that a run may teach of either.
_LEAST, _MOST = (0.1, 0.05), (1.0, 0.9)
#: Standard deviation of what training closes of a gap, as a share of it, beside the error of the samples.
_UNSURE = 0.2
#: The gap, in allowed losses, of which training closes half that share: what lost much has lost what it cannot learn
#: again in the steps at hand.
_HALVED = 10.0
#: Gaps, in allowed losses, that these two count as much as.
_PRIOR_GAP = 2.0
#: Share of the loss allowed that is aimed at, however rough the figures are.
_LEAST_SHARE = 0.5
#: Shares of that loss at which the cheapest point is wanted: samples flatter what was chosen by them, and a point that
#: loses less on them is there for those who want to be surer.
_WANTED_SHARES = (1.0, 0.65)
#: Of the interval in which a share is sought: to a thousandth.
_HALVINGS = 10
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
        longer: share of what is left that each doubling of the steps closes.
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

        return cls(
            quality=quality,
            best=best,
            allowed=allowed,
            error=error,
            sure=max(allowed - error, _LEAST_SHARE * allowed),
            first=_share(HOPED, prior, lessons, allowed),
            longer=_share_of_doubling(HOPED_LONGER, prior, lessons, allowed),
        )

    @property
    def limits(self) -> tuple[float, ...]:
        """Gaps whose cheapest points are wanted most: all that is allowed for sure, and parts of it for the careful."""
        return tuple(share * self.sure for share in _WANTED_SHARES)

    def gap(self, trial: Trial) -> float:
        """Loss of quality beyond the best."""
        return self.quality.loss(trial.value(self.quality.metric)) - self.best

    def hoped(self, gap: float, steps: int, lengths: Iterable[int]) -> float:
        """What is left of a gap after longer training, if that does as well as it did for others.

        Args:
            gap: to the best quality.
            steps: of training before.
            lengths: numbers of steps that follow, rising; each goes on from the one before.
        """
        return self.outlook(gap, steps, lengths)[0]

    def outlook(self, gap: float, steps: int, lengths: Iterable[int]) -> tuple[float, float]:
        """The same, and its standard deviation without the error of the samples."""
        variance = 0.0
        for length in lengths:
            for share in [self.first] if steps == 0 else _shares(self.longer, length / steps):
                closed = share * _within_reach(gap, self.allowed)
                # What was off before is closed in part, too.
                slope = 1.0 - share / (1.0 + max(gap, 0.0) / (_HALVED * self.allowed)) ** 2
                variance = slope**2 * variance + (_UNSURE * closed) ** 2
                gap -= closed
            steps = length
        return gap, math.sqrt(variance)


def _shares(doubling: float, ratio: float) -> Iterator[float]:
    """Shares that training so many times as long closes: of each doubling, and of the part of one that is left."""
    left = math.log2(ratio)
    while left > 0:
        yield 1.0 - (1.0 - doubling) ** min(1.0, left)
        left -= 1.0


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


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A plan that was trained for longer than it had been: steps and gaps before and after."""

    steps: int
    more: int
    before: float
    after: float


def _lessons(complete: Sequence[Trial], quality: Objective, best: float) -> Iterator[_Lesson]:
    known: dict[str, list[tuple[int, float]]] = {}
    for trial in complete:
        if trial.plan.distillation is not None:
            gap = quality.loss(trial.value(quality.metric)) - best
            known.setdefault(trial.plan.replace(distillation=None).digest, []).append((healing_steps(trial.plan), gap))
    for found in known.values():
        for (steps, before), (more, after) in itertools.pairwise(sorted(found)):
            # Others were trained as long in another way.
            if more > steps:
                yield _Lesson(steps, more, before, after)


def _share(hoped: float, prior: float, lessons: Sequence[_Lesson], allowed: float) -> float:
    """What training at all closes, with ``prior`` of gaps of which ``hoped`` was closed."""
    first = [lesson for lesson in lessons if lesson.steps == 0]
    closed = hoped * prior + sum(lesson.before - lesson.after for lesson in first)
    reach = prior + sum(_within_reach(lesson.before, allowed) for lesson in first)
    return min(_MOST[0], max(_LEAST[0], closed / reach))


def _share_of_doubling(hoped: float, prior: float, lessons: Sequence[_Lesson], allowed: float) -> float:
    """What each doubling of the steps closes; the prior stands for one gap and one doubling."""
    longer = [lesson for lesson in lessons if lesson.steps > 0]
    if not longer:
        return hoped
    closed = sum(lesson.before - lesson.after for lesson in longer)

    def missing(share: float) -> float:
        """What was closed beyond what such a share closes; the prior is one doubling of a gap of its own."""
        told = sum(_closed(lesson, share, allowed) for lesson in longer)
        return closed - told + (hoped - share) * prior

    low, high = _LEAST[1], _MOST[1]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return (low + high) / 2


def _closed(lesson: _Lesson, doubling: float, allowed: float) -> float:
    gap = lesson.before
    for share in _shares(doubling, lesson.more / lesson.steps):
        gap -= share * _within_reach(gap, allowed)
    return lesson.before - gap


def quality_limit(metric: str, baseline: float, constraints: Sequence[Constraint]) -> float:
    """The least quality allowed: the user's bound, else :data:`USUAL_DROP` below the uncompressed model's."""
    return next((c.bound for c in constraints if c.metric == metric), baseline - USUAL_DROP)


def healing_steps(plan: CompressionPlan) -> int:
    """Training steps of a plan."""
    return plan.distillation.steps if plan.distillation is not None else 0
