"""Uniform over the space."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler


def build(seed: int, n_seeds: int) -> BaseSampler:
    """A sampler that learns nothing.

    Args:
        seed: of its random numbers.
        n_seeds: not used.
    """
    return RandomSampler(seed=seed)
