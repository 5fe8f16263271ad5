"""What each option does to a figure, learned from the trials of a run: linear regression with priors.

A figure of a plan is taken for the sum of what its options add to that of a reference plan: latency nearly is, layer by
layer. The effects have a normal prior (what is cheaper before anything was tried) and a normal posterior (Bishop 2006,
"Pattern Recognition and Machine Learning", section 3.3), so that what is hardly known is drawn from widely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.space import Choice, SearchSpace

#: Kinds of choices that decide what an artifact is made of; the others say how its weights come about.
KINDS = frozenset({"precision", "ratio", "skip", "rank", "sparsity"})

Assignment = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One option, or for ordered choices all options from it on.

    Args:
        choice: whose option it is.
        option: not the first.
    """

    choice: Choice
    option: str | float | int

    def holds(self, chosen: Any) -> bool:
        """Whether the term is in force where ``chosen`` is chosen."""
        if not self.choice.ordered:
            return bool(chosen == self.option)
        return self.choice.options.index(chosen) >= self.choice.options.index(self.option)


class Terms:
    """Assignments of a space as rows of zeros and ones, relative to a reference assignment.

    Args:
        space: whose choices count.
        reference: has a row of zeros.
    """

    def __init__(self, space: SearchSpace, reference: Assignment) -> None:
        self.choices = tuple(choice for choice in space.choices if choice.kind in KINDS)
        self._inside = space.inside
        self.terms = tuple(
            Term(choice=choice, option=option)
            for choice in self.choices
            for option in choice.options
            if option != (choice.options[0] if choice.ordered else reference[choice.name])
        )

    def __len__(self) -> int:
        return len(self.terms)

    def covers(self, assignment: Assignment) -> bool:
        """Whether an assignment has one of the space's options for each choice that counts."""
        return all(assignment.get(choice.name) in choice.options for choice in self.choices)

    def row(self, assignment: Assignment) -> NDArray[np.float64]:
        """``(n_terms,)`` which terms are in force; none about parts of a skipped block."""
        gone = self.gone(assignment)
        return np.array(
            [t.choice.subject not in gone and t.holds(assignment[t.choice.name]) for t in self.terms], np.float64
        )

    def gone(self, assignment: Assignment) -> set[str]:
        """Layers and groups of the blocks that an assignment skips."""
        return {
            subject
            for choice in self.choices
            if choice.kind == "skip" and int(assignment[choice.name])
            for subject in self.inside(choice.subject)
        }

    def inside(self, block: str) -> Sequence[str]:
        """Layers and groups that go with a block."""
        return self._inside.get(block, ())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """What effects are taken for before anything was tried.

    Args:
        mean: ``(n_terms,)``.
        deviation: ``(n_terms,)`` standard deviation of each on its own.
        scale: standard deviation of a factor that all means share.
        base: standard deviation of the reference's own figure about ``at``.
        at: what the reference's figure is about.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    scale: float
    base: float
    at: float

    def covariance(self) -> NDArray[np.float64]:
        """``(1 + n_terms, 1 + n_terms)`` of the reference's figure and all effects."""
        inner = np.diag(self.deviation**2) + self.scale**2 * np.outer(self.mean, self.mean)
        whole = np.zeros((len(inner) + 1, len(inner) + 1))
        whole[0, 0], whole[1:, 1:] = self.base**2, inner
        return whole


class Effects:
    """The effects after some figures were seen.

    Args:
        prior: before.
        rows: ``(n_seen, n_terms)``.
        figures: ``(n_seen,)``.
        noise: ``(n_seen,)`` standard deviation of each figure about the sum of the effects.
    """

    def __init__(
        self,
        prior: Prior,
        rows: NDArray[np.float64],
        figures: NDArray[np.float64],
        noise: NDArray[np.float64],
    ) -> None:
        self._mean = np.concatenate([[prior.at], prior.mean])
        self._prior = prior
        covariance = prior.covariance()
        self._seen = np.hstack([np.ones((len(rows), 1)), rows])
        self._figures, self._noise = figures, noise
        spread = covariance @ self._seen.T
        within = self._seen @ spread + np.diag(noise**2)
        # The gain of a Kalman update: the posterior's mean and each of its draws need nothing else.
        self._gain = np.linalg.solve(within, spread.T).T

    def mean(self) -> NDArray[np.float64]:
        """``(1 + n_terms,)`` the reference's figure, then the effects."""
        found: NDArray[np.float64] = self._mean + self._gain @ (self._figures - self._seen @ self._mean)
        return found

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """One draw of the same from the posterior.

        A draw of the prior, corrected by what it gets wrong about noisy figures (Matheron's rule; Wilson et al. 2020,
        "Efficiently Sampling Functions from Gaussian Process Posteriors", section 3.1).
        """
        prior = self._prior
        drawn = self._mean.copy()
        drawn[0] += prior.base * rng.standard_normal()
        shared = prior.scale * rng.standard_normal()
        drawn[1:] += prior.deviation * rng.standard_normal(len(prior.mean)) + shared * prior.mean
        said = self._seen @ drawn + self._noise * rng.standard_normal(len(self._noise))
        drawn += self._gain @ (self._figures - said)
        return drawn


def stacked(terms: Terms, assignments: Sequence[Assignment]) -> NDArray[np.float64]:
    """``(n_assignments, n_terms)``."""
    return np.array([terms.row(assignment) for assignment in assignments]).reshape(len(assignments), len(terms))
