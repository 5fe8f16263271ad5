"""Proposals near the front, changed by what the run has taught about single options.

Samplers that know nothing of how figures come about need hundreds of trials in spaces of dozens of choices. A profile
tells costs roughly, harm nearly adds up on a suitable scale, and a few dozen trials tell where both are wrong. Each
proposal takes points of the front, changes up to :data:`DEPTH` options by what a draw from the posterior says of them
(Thompson 1933), and is the change that adds most hypervolume to the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import AutocompressError
from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import non_dominated_mask
from autocompress.core.protocols import TrialStore
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.search.aim import Aim, healing_steps
from autocompress.search.effect_priors import Sensitivities, cost_prior, harm_prior
from autocompress.search.estimates import Estimate
from autocompress.search.gains import volume_gains
from autocompress.search.option_effects import Effects, Prior, Terms, stacked
from autocompress.search.promotion import SOURCE as PROMOTED
from autocompress.search.training_steps import STEPS, TrainingSteps
from autocompress.search.tuner import Proposer

SOURCE = "frontier"
#: How many options of a point of the front are changed at most.
DEPTH = 3
#: Changed points that are changed further.
_BEAM = 12
#: Trials before anything is proposed.
_LEAST_TRIALS = 8
#: How much more a proposal counts that would be the cheapest within the allowed loss.
_WANTED = 6.0
#: Standard deviation of a figure about the sum of its effects: harm, and the logarithm of costs.
_HARM_NOISE, _COST_NOISE = 0.15, 0.05
#: How far draws go from what is most likely, as a share: with dozens of options the luckiest of full draws is fancy.
_DARING = 0.5
#: Gaps, in allowed losses, of the points that are changed.
_FAR = 2.0
#: How many are changed at least, and at most, the best first.
_FEWEST, _MOST = 3, 8
#: Plans that are learned from, the best first.
_REMEMBERED = 400
#: How much less a figure says of a trial that was stopped early.
_STOPPED = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the trials of one plan, however long it was trained, have told.

    Args:
        assignment: of its choices.
        gap: loss of quality beyond the best, after all training that may follow.
        costs: losses of the other objectives.
        error: standard deviation of the gap.
        whole: whether it was scored to the end.
    """

    assignment: Mapping[str, Any]
    gap: float
    costs: tuple[float, ...]
    error: float
    whole: bool


_Move = tuple[str, Any, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class _Point:
    """A point that is changed.

    Args:
        assignment: of its choices.
        losses: ``(n_objectives,)`` that are known or expected of it.
        moves: changes of one option, each with what it adds to the logarithms.
    """

    assignment: dict[str, Any]
    losses: NDArray[np.float64]
    moves: list[_Move]

    def after(self, move: _Move, losses: NDArray[np.float64]) -> _Point:
        """The point with one more change; what the others add is taken for the same as before it."""
        name, option, _ = move
        return _Point({**self.assignment, name: option}, losses, [other for other in self.moves if other[0] != name])


class Frontier:
    """Proposes changed points of the front, in turn with another proposer.

    A proposal depends on the seed and the trials in the store alone.

    Args:
        inner: proposes otherwise.
        space: to choose from.
        estimates: metric other than quality to a function from plans to rough costs.
        reference: an assignment in the middle of what is worth trying; effects are relative to it.
        sensitivities: choice name to ``str(option)`` to KL of the outputs, one changed at a time.
        store: read at each proposal.
        objectives: quality first.
        constraints: likewise.
        seed: of the draws.
    """

    def __init__(
        self,
        inner: Proposer,
        *,
        space: SearchSpace,
        estimates: Mapping[str, Estimate],
        reference: Mapping[str, Any],
        sensitivities: Sensitivities,
        store: TrialStore,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        seed: int = 0,
    ) -> None:
        self._inner = inner
        self._space = space
        self._estimates = estimates
        self._estimated: dict[str, NDArray[np.float64]] = {}
        self._reference = dict(reference)
        self._store = store
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._seed = seed
        self._steps = TrainingSteps.of(space)
        self._terms = Terms(space, self._reference)
        self._removes = np.array([term.choice.kind != "precision" for term in self._terms.terms], bool)
        self._harm = harm_prior(self._terms, self._reference, sensitivities)

    def ask(self) -> Candidate | None:
        """A changed point of the front in its turn, else what the inner proposer says; None when neither has any."""
        trials = self._store.trials()
        others = [trial.candidate.source for trial in trials if trial.candidate.source != PROMOTED]
        if others and others[-1] != SOURCE:
            proposed = self._proposal(trials)
            if proposed is not None:
                return proposed
        found = self._inner.ask()
        return self._proposal(trials) if found is None else found

    def _proposal(self, trials: Sequence[Trial]) -> Candidate | None:
        """The change that promises most; None where too little is known, or nothing new is promising."""
        complete = [t for t in trials if t.state is TrialState.COMPLETE]
        if len(complete) < _LEAST_TRIALS or not self._applies:
            return None
        try:
            found = self._best_change(trials, complete)
        except AutocompressError:
            # The profile has no price for something that is tried all the same.
            return None
        return None if found is None else Candidate(plan=self._space.plan(found), source=SOURCE, assignment=found)

    @property
    def _applies(self) -> bool:
        """Whether quality is weighed against costs, and there is anything to change."""
        quality, *costs = self._objectives
        return (
            quality.metric in QUALITY_METRICS
            and bool(costs)
            and not any(objective.maximize for objective in costs)
            and len(self._terms) > 0
        )

    def _best_change(self, trials: Sequence[Trial], complete: Sequence[Trial]) -> dict[str, Any] | None:
        aim = Aim.of(complete, self._objectives[0], self._constraints)
        known = self._known(trials, aim, _quick_excess(complete, self._objectives[0].metric))
        if len(known) < _LEAST_TRIALS:
            return None
        effects = self._effects(known, aim, np.random.default_rng([self._seed, len(trials)]))
        losses = np.array([[point.gap, *point.costs] for point in known])
        whole = np.array([point.whole for point in known])
        front = np.flatnonzero(whole)[non_dominated_mask(losses[whole])]
        tried = {trial.plan.digest for trial in trials}
        best: tuple[float, dict[str, Any]] | None = None
        # Each with the losses that are expected of it.
        near = sorted(front, key=lambda index: float(losses[index, 0]))
        near = near[: max(_FEWEST, min(_MOST, int((losses[front, 0] <= _FAR * aim.allowed).sum())))]
        beam = [_Point(dict(known[i].assignment), losses[i], self._moves(known[i].assignment, effects)) for i in near]
        for _ in range(DEPTH):
            steps = [(point, move) for point in beam for move in point.moves]
            if not steps:
                break
            expected = _moved(
                np.array([point.losses for point, _ in steps]), np.array([move[2] for _, move in steps]), aim.allowed
            )
            gains = self._gains(expected, losses[front], losses, aim)
            beam = []
            for index in np.argsort(-gains, kind="stable")[:_BEAM]:
                if gains[index] <= 0:
                    break
                beam.append(steps[index][0].after(steps[index][1], expected[index]))
                better = best is None or gains[index] > best[0]
                if better and self._space.plan(beam[-1].assignment).digest not in tried:
                    best = (float(gains[index]), beam[-1].assignment)
        return None if best is None else best[1]

    def _gains(
        self, points: NDArray[np.float64], front: NDArray[np.float64], every: NDArray[np.float64], aim: Aim
    ) -> NDArray[np.float64]:
        """``(n_points,)`` what each adds to the front; more where it would be the cheapest of a quality aimed at."""
        gains = volume_gains(front, points, every, aim.allowed)
        wanted = np.zeros(len(points), bool)
        for limit in aim.limits:
            cheapest = front[front[:, 0] <= limit, 1].min(initial=math.inf)
            wanted |= (points[:, 0] <= limit) & (points[:, 1] < cheapest)
        return np.where(wanted, _WANTED * gains, gains)

    def _moves(self, assignment: Mapping[str, Any], effects: NDArray[np.float64]) -> list[_Move]:
        """Every change of one option that means anything, with ``(n_objectives,)`` what it adds to the logarithms."""
        gone = self._terms.gone(assignment)
        row, estimated = self._terms.row(assignment), self._log_estimates(assignment)
        found = []
        for choice in self._terms.choices:
            for option in choice.options if choice.subject not in gone else ():
                if option == assignment[choice.name]:
                    continue
                changed = {**assignment, choice.name: option}
                try:
                    more = self._log_estimates(changed) - estimated
                except AutocompressError:
                    continue
                found.append((choice.name, option, (self._terms.row(changed) - row) @ effects + [0.0, *more]))
        return found

    def _log_estimates(self, assignment: Mapping[str, Any]) -> NDArray[np.float64]:
        """``(n_objectives - 1,)`` logarithms of the costs that the profile tells."""
        plan = self._space.plan(assignment).replace(distillation=None)
        if plan.digest not in self._estimated:
            costs = [self._estimates[objective.metric](plan) for objective in self._objectives[1:]]
            self._estimated[plan.digest] = np.log(np.maximum(costs, 1e-12))
        return self._estimated[plan.digest]

    def _effects(self, known: Sequence[_Known], aim: Aim, rng: np.random.Generator) -> NDArray[np.float64]:
        """``(n_terms, n_objectives)`` a draw of what each adds to ``log(1 + gap / allowed)`` and ``log(costs)``."""
        rows = stacked(self._terms, [point.assignment for point in known])
        gaps = np.array([point.gap for point in known])
        errors = np.array([point.error for point in known])
        harms, noise = np.log1p(gaps / aim.allowed), np.hypot(errors / (aim.allowed + gaps), _HARM_NOISE)
        harm = _drawn(self._harm, rows, harms, noise, rng)
        # What leaves something out wins no quality.
        drawn = [np.where(self._removes, np.maximum(harm, 0.0), harm)]
        estimated = np.array([self._log_estimates(point.assignment) for point in known])
        for index in range(len(self._objectives) - 1):
            costs = np.log(np.maximum([point.costs[index] for point in known], 1e-12)) - estimated[:, index]
            drawn.append(_drawn(cost_prior(self._terms), rows, costs, np.full(len(costs), _COST_NOISE), rng))
        return np.column_stack(drawn)

    def _known(self, trials: Sequence[Trial], aim: Aim, excess: float) -> list[_Known]:
        """One of each plan, trained for as long as any of it was; trials that say nothing of quality are left out."""
        found: dict[str, tuple[int, _Known]] = {}
        for trial in trials:
            point = self._point(trial, aim, excess)
            if point is None:
                continue
            form, steps = trial.plan.replace(distillation=None).digest, healing_steps(trial.plan)
            if form not in found or (point.whole, steps) >= (found[form][1].whole, found[form][0]):
                found[form] = (steps, point)
        points = [point for _, point in found.values()]
        return sorted(points, key=lambda point: point.gap)[:_REMEMBERED]

    def _point(self, trial: Trial, aim: Aim, excess: float) -> _Known | None:
        """``excess``: by how much more quality is found on the small sample than on all."""
        assignment = trial.candidate.assignment
        if trial.state is TrialState.FAIL or not self._terms.covers(assignment):
            return None
        quality = self._objectives[0]
        figure, quick = (trial.measurements.get(name) for name in (quality.metric, f"quick_{quality.metric}"))
        costs = [trial.measurements.get(objective.metric) for objective in self._objectives[1:]]
        if (figure is None and quick is None) or any(cost is None for cost in costs):
            return None
        value = figure.value if figure is not None else quick.value - excess if quick is not None else 0.0
        whole = trial.state is TrialState.COMPLETE
        left = 0 if self._steps is None else self._steps.times_left(trial.plan)
        gap = aim.hoped_gap(quality.loss(value) - aim.best, healing_steps(trial.plan), left)
        return _Known(
            assignment={**assignment, STEPS: self._steps.fewest} if self._steps is not None else assignment,
            gap=max(0.0, gap),
            costs=tuple(
                objective.loss(cost.value)
                for objective, cost in zip(self._objectives[1:], costs, strict=True)
                if cost is not None
            ),
            error=aim.error * (1.0 if whole else _STOPPED),
            whole=whole,
        )


def _moved(losses: NDArray[np.float64], more: NDArray[np.float64], allowed: float) -> NDArray[np.float64]:
    """``(n, n_objectives)`` losses after changes: of ``log(1 + gap / allowed)``, and of ``log(costs)``."""
    harm = np.log1p(losses[:, 0] / allowed) + more[:, 0]
    return np.column_stack([allowed * np.expm1(np.maximum(harm, 0.0)), losses[:, 1:] * np.exp(more[:, 1:])])


def _quick_excess(complete: Sequence[Trial], metric: str) -> float:
    quick = f"quick_{metric}"
    found = [t.value(quick) - t.value(metric) for t in complete if quick in t.measurements]
    return float(np.median(found)) if found else 0.0


def _drawn(
    prior: Prior,
    rows: NDArray[np.float64],
    figures: NDArray[np.float64],
    noise: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """``(n_terms,)`` effects of one draw."""
    effects = Effects(prior, rows, figures, noise)
    likely = effects.mean()
    drawn: NDArray[np.float64] = (likely + _DARING * (effects.draw(rng) - likely))[1:]
    return drawn
