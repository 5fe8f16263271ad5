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

from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import non_dominated_mask
from autocompress.core.protocols import TrialStore
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.search.aim import Aim
from autocompress.search.effect_priors import Sensitivities, cost_prior, harm_prior
from autocompress.search.estimates import Estimate
from autocompress.search.gains import volume_gains
from autocompress.search.hope import FAR
from autocompress.search.known_points import NOTHING, KnownPoint, KnownPoints, refused_options
from autocompress.search.option_effects import Effects, Prior, Terms, stacked
from autocompress.search.promotion import SOURCE as PROMOTED
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
#: How many are changed at least, and at most, the best first.
_FEWEST, _MOST = 3, 8
#: Terms times changes that the profile is asked about a proposal, and changes of each point at least.
_MOST_PRICED, _FEWEST_MOVES = 60_000, 20

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

    def after(self, move: _Move, losses: NDArray[np.float64], inside: Mapping[str, frozenset[str]]) -> _Point:
        """The point with one more change; what the others add is taken for the same as before it.

        Args:
            move: the change.
            losses: that are expected then.
            inside: choice that skips a block to the choices that mean nothing then.
        """
        name, option, _ = move
        gone = {name} | (inside.get(name, frozenset()) if option else frozenset())
        return _Point(
            {**self.assignment, name: option}, losses, [other for other in self.moves if other[0] not in gone]
        )


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
        self._store = store
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._seed = seed
        self._terms = Terms(space, reference)
        self._points = KnownPoints(space, self._terms, estimates, objectives, constraints)
        self._removes = np.array([term.choice.kind != "precision" for term in self._terms.terms], bool)
        self._inside = {
            choice.name: frozenset(
                c.name for c in self._terms.choices if c.subject in self._terms.inside(choice.subject)
            )
            for choice in self._terms.choices
            if choice.kind == "skip"
        }
        self._harm = harm_prior(self._terms, reference, sensitivities)

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
        found = self._best_change(trials, complete)
        return None if found is None else Candidate(plan=self._space.plan(found), source=SOURCE, assignment=found)

    @property
    def _applies(self) -> bool:
        """Whether quality is weighed against costs, and there is anything to change."""
        quality, *costs = self._objectives
        return (
            quality.metric in QUALITY_METRICS
            and bool(costs)
            and not any(objective.maximize for objective in costs)
            and all(objective.metric in self._estimates for objective in costs)
            and len(self._terms) > 0
        )

    def _best_change(self, trials: Sequence[Trial], complete: Sequence[Trial]) -> dict[str, Any] | None:
        aim = Aim.of(complete, self._objectives[0], self._constraints)
        known = self._points.of(trials, aim)
        scored = [point for point in known if math.isfinite(point.missed)]
        if len(scored) < _LEAST_TRIALS:
            return None
        rng = np.random.default_rng([self._seed, len(trials)])
        effects = self._effects(known, aim, rng)
        every = np.array([[point.gap, *point.costs] for point in scored])
        least = min(point.missed for point in scored)
        scored = [point for point in scored if point.missed <= least]
        losses = np.array([[point.gap, *point.costs] for point in scored])
        front = np.flatnonzero(non_dominated_mask(losses))
        near = sorted(front, key=lambda index: float(losses[index, 0]))
        near = near[: max(_FEWEST, min(_MOST, int((losses[front, 0] <= FAR * aim.allowed).sum())))]
        moves = max(_FEWEST_MOVES, _MOST_PRICED // (len(self._terms) * len(near)))
        refused = refused_options(trials)
        beam = [
            _Point(dict(point.assignment), losses[i], self._moves(point, effects, refused, moves, rng))
            for i, point in ((i, scored[i]) for i in near)
        ]
        tried = {trial.plan.digest for trial in trials}
        best: tuple[float, dict[str, Any]] | None = None
        for _ in range(DEPTH):
            steps = [(point, move) for point in beam for move in point.moves]
            if not steps:
                break
            # Each with the losses that are expected of it.
            expected = _moved(
                np.array([point.losses for point, _ in steps]), np.array([move[2] for _, move in steps]), aim.allowed
            )
            gains = self._gains(expected, losses[front], every, aim)
            beam, seen = [], set()
            for index in np.argsort(-gains, kind="stable"):
                if gains[index] <= 0 or len(beam) == _BEAM:
                    break
                changed = steps[index][0].after(steps[index][1], expected[index], self._inside)
                digest = self._space.plan(changed.assignment).digest
                # Two changes in either order are one.
                if digest in seen:
                    continue
                seen.add(digest)
                beam.append(changed)
                if digest not in tried and (best is None or gains[index] > best[0]):
                    best = (float(gains[index]), changed.assignment)
        return None if best is None else best[1]

    def _gains(
        self, points: NDArray[np.float64], front: NDArray[np.float64], every: NDArray[np.float64], aim: Aim
    ) -> NDArray[np.float64]:
        """``(n_points,)`` what each adds to the front; more where it would be the cheapest of a quality aimed at.

        None where it is expected past a bound that the front keeps.
        """
        gains = volume_gains(front, points, every, aim.allowed)
        wanted = np.zeros(len(points), bool)
        for limit in aim.limits:
            cheapest = front[front[:, 0] <= limit, 1].min(initial=math.inf)
            wanted |= (points[:, 0] <= limit) & (points[:, 1] < cheapest)
        gains = np.where(wanted, _WANTED * gains, gains)
        for column, objective in enumerate(self._objectives[1:], 1):
            for bound in (c.bound for c in self._constraints if c.metric == objective.metric):
                if front[:, column].min() <= bound:
                    gains = np.where(points[:, column] <= bound, gains, 0.0)
        return gains

    def _moves(
        self,
        point: KnownPoint,
        effects: NDArray[np.float64],
        refused: frozenset[tuple[str, Any]],
        count: int,
        rng: np.random.Generator,
    ) -> list[_Move]:
        """Changes of one option that mean anything, with ``(n_objectives,)`` what each adds to the logarithms.

        Args:
            point: that is changed.
            effects: ``(n_terms, n_objectives)``.
            refused: choices and options that are not tried again.
            count: at most so many, picked by chance: each asks the profile about all layers.
            rng: of the chance.
        """
        assignment = point.assignment
        gone = self._terms.gone(assignment)
        changes = [
            (choice.name, option)
            for choice in self._terms.choices
            if choice.subject not in gone
            for option in choice.options
            if option != assignment[choice.name] and (choice.name, option) not in refused
        ]
        if len(changes) > count:
            changes = [changes[index] for index in sorted(rng.choice(len(changes), count, replace=False))]
        row = self._terms.row(assignment)
        found = []
        for name, option in changes:
            changed = {**assignment, name: option}
            estimated = self._points.log_estimates(changed)
            if estimated is not None:
                more = (self._terms.row(changed) - row) @ effects + [0.0, *(estimated - point.estimated)]
                found.append((name, option, more))
        return found

    def _effects(self, known: Sequence[KnownPoint], aim: Aim, rng: np.random.Generator) -> NDArray[np.float64]:
        """``(n_terms, n_objectives)`` a draw of what each adds to ``log(1 + gap / allowed)`` and ``log(costs)``."""
        rows = stacked(self._terms, [point.assignment for point in known])
        told = np.array([math.isfinite(point.gap) for point in known])
        gaps = np.array([point.gap for point in known])[told]
        errors = np.array([point.error for point in known])[told]
        harms, noise = np.log1p(gaps / aim.allowed), np.hypot(errors / (aim.allowed + gaps), _HARM_NOISE)
        harm = _drawn(self._harm, rows[told], harms, noise, rng)
        # What leaves something out wins no quality.
        drawn = [np.where(self._removes, np.maximum(harm, 0.0), harm)]
        for index in range(len(self._objectives) - 1):
            costs = np.log([max(p.costs[index], NOTHING) / math.exp(p.estimated[index]) for p in known])
            drawn.append(_drawn(cost_prior(self._terms), rows, costs, np.full(len(costs), _COST_NOISE), rng))
        return np.column_stack(drawn)


def _moved(losses: NDArray[np.float64], more: NDArray[np.float64], allowed: float) -> NDArray[np.float64]:
    """``(n, n_objectives)`` losses after changes: of ``log(1 + gap / allowed)``, and of ``log(costs)``."""
    harm = np.log1p(losses[:, 0] / allowed) + more[:, 0]
    return np.column_stack([allowed * np.expm1(np.maximum(harm, 0.0)), losses[:, 1:] * np.exp(more[:, 1:])])


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
