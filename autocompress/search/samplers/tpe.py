"""Multivariate tree-structured Parzen estimator (Bergstra et al. 2011; Ozaki et al. 2022 for several objectives)."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler


def build(seed: int, n_seeds: int) -> BaseSampler:
    """TPE over all choices jointly.

    Args:
        seed: of its random numbers.
        n_seeds: complete trials that other sources than the sampler put into the study.
    """
    # The space is flat: every trial has every choice, so `group` would only split what belongs together.
    return TPESampler(seed=seed, multivariate=True, group=False, n_startup_trials=min(8, max(2, n_seeds)))
