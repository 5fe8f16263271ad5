"""The store's trials as a study in memory, told so that Optuna's samplers learn most from them.

The study on disk says what happened; this one says what a sampler should believe. It differs in three ways: ordered
options are whole numbers, so that neighbours are known to be alike; a trial that was stopped early counts with what
was measured before, where that is enough; and a trial that chose nothing of the space is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from autocompress.core.objective import Constraint, Objective
from autocompress.core.space import Choice, SearchSpace
from autocompress.core.trial import Trial, TrialState
from autocompress.search.samplers.nsga2 import OrderedNSGAIISampler, population_size

_GENERATION = OrderedNSGAIISampler._get_generation_key()


class Mirror:
    """A study in memory.

    Args:
        space: whose choices are the parameters.
        objectives: the directions.
        constraints: become Optuna's constraints.
        source: trials of this source were proposed by the sampler; others are seeds.
    """

    def __init__(
        self, space: SearchSpace, objectives: Sequence[Objective], constraints: Sequence[Constraint], source: str
    ) -> None:
        self._choices = {choice.name: choice for choice in space.choices}
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._source = source
        self.distributions = {choice.name: distribution(choice) for choice in space.choices}
        directions = [StudyDirection.MAXIMIZE if o.maximize else StudyDirection.MINIMIZE for o in objectives]
        self.study = optuna.create_study(directions=directions)
        self._synced = 0
        self.n_seeds = 0
        self._n_proposed = 0

    def sync(self, trials: Sequence[Trial]) -> None:
        """Tell the study the trials that it does not have yet."""
        for trial in trials[self._synced :]:
            frozen = self._frozen(trial)
            if frozen is not None:
                self.study.add_trial(frozen)
        self._synced = len(trials)

    def sample(self, sampler: BaseSampler) -> dict[str, Any]:
        """One assignment; the study forgets that it was asked for."""
        self.study.sampler = sampler
        asked = self.study.ask(self.distributions)
        self.study.tell(asked, state=OptunaState.FAIL)
        return {name: option(self._choices[name], value) for name, value in asked.params.items()}

    def _frozen(self, trial: Trial) -> FrozenTrial | None:
        params = self._params(trial.candidate.assignment)
        if params is None or trial.state is TrialState.FAIL:
            return None
        figures = _figures(trial, {o.metric for o in self._objectives} | {c.metric for c in self._constraints})
        values = [figures.get(o.metric) for o in self._objectives]
        if any(value is None for value in values) or any(c.metric not in figures for c in self._constraints):
            return create_trial(state=OptunaState.PRUNED, params=params, distributions=self.distributions)
        return create_trial(
            state=OptunaState.COMPLETE,
            values=values,  # type: ignore[arg-type]
            params=params,
            distributions=self.distributions,
            system_attrs={
                _GENERATION: self._generation(trial),
                **{f"constraints:{c}": c.violation(figures[c.metric]) for c in self._constraints},
            },
        )

    def _generation(self, trial: Trial) -> int:
        """Seeds are NSGA-II's first generation; what it proposed follows, population by population."""
        if trial.candidate.source != self._source:
            self.n_seeds += 1
            return 0
        size = population_size(self.n_seeds)
        missing = max(0, size - self.n_seeds)
        generation = 0 if self._n_proposed < missing else 1 + (self._n_proposed - missing) // size
        self._n_proposed += 1
        return generation

    def _params(self, assignment: Mapping[str, Any]) -> dict[str, Any] | None:
        """Parameters of a whole assignment; None where a choice is missing or its option is unknown."""
        if not self._choices or any(
            name not in assignment or assignment[name] not in choice.options for name, choice in self._choices.items()
        ):
            return None
        return {name: parameter(choice, assignment[name]) for name, choice in self._choices.items()}


def distribution(choice: Choice) -> BaseDistribution:
    """Whole numbers for ordered options, else categories."""
    return IntDistribution(0, len(choice.options) - 1) if choice.ordered else CategoricalDistribution(choice.options)


def parameter(choice: Choice, chosen: Any) -> Any:
    """An option as :func:`distribution` knows it."""
    return choice.options.index(chosen) if choice.ordered else chosen


def option(choice: Choice, value: Any) -> Any:
    """The inverse of :func:`parameter`."""
    return choice.options[value] if choice.ordered else value


def _figures(trial: Trial, metrics: set[str]) -> dict[str, float]:
    """What is known of each metric; a trial stopped early has its quality on the small sample at best."""
    figures = {}
    for metric in metrics:
        found = trial.measurements.get(metric) or trial.measurements.get(f"quick_{metric}")
        if found is not None:
            figures[metric] = found.value
    return figures
