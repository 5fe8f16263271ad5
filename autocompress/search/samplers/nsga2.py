"""NSGA-II (Deb et al. 2002)."""

from __future__ import annotations

from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial

MIN_POPULATION = 6
MAX_POPULATION = 16


def population_size(n_seeds: int) -> int:
    """As many as the seeds, within limits: they are the first generation, and a short search needs several more."""
    return min(MAX_POPULATION, max(MIN_POPULATION, n_seeds))


class OrderedNSGAIISampler(NSGAIISampler):
    """NSGA-II whose parents come in the order of their numbers.

    Optuna's own come in the order of rank when they are chosen and in that of numbers when they are remembered, so that
    a resumed study would cross other parents than one that ran through.
    """

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The elite of the generation before, by number."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


def build(seed: int, n_seeds: int) -> BaseSampler:
    """NSGA-II whose first generation are the seeds.

    Args:
        seed: of its random numbers.
        n_seeds: complete trials that other sources than the sampler put into the study.
    """
    return OrderedNSGAIISampler(seed=seed, population_size=population_size(n_seeds))
