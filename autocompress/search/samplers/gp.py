"""Gaussian processes, one an objective, with the expected hypervolume improvement (Daulton et al. 2020)."""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler


def build(seed: int, n_seeds: int) -> BaseSampler:
    """A GP sampler; accuracy is taken for noisy, as is latency.

    Args:
        seed: of its random numbers.
        n_seeds: complete trials that other sources than the sampler put into the study.
    """
    return GPSampler(seed=seed, n_startup_trials=min(8, max(2, n_seeds)), warn_independent_sampling=False)
