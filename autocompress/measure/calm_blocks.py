"""Which blocks of a comparison ran on a calm machine, and what those say of the ratio.

Like :mod:`autocompress.measure.rounds` it runs on boards too: Python 3.6 or newer and the standard library.

* A model's **calm level** is a low quantile of its turns. Its tolerance follows the spread of the calm turns: int8
  slows down several times more than float32 under the same load.
* By the **reference alone** a block is calm where its turns in the block and those just before and after lie within
  that tolerance. Choosing so leans: among the blocks left the reference was lucky, and equal models come out 0.4%
  apart on a host that is calm a tenth of the time, and int8 1.1% too slow (``experiments/timing/block_choice.py``).
* So both models' turns are asked **together**, each against its own level: equal models change places without
  changing the choice, which cannot lean then.
* The candidate may not hide a slow mode of its own that way: where it is off its level in typical blocks that the
  reference calls calm, the reference alone decides, and the comparison is not called calm.
"""

import bisect
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from autocompress.measure.order_statistics import correlated_interval, mean, quantile

#: The calm level is this quantile of a model's turns: right while a fifth of them are undisturbed.
CALM_QUANTILE = 0.2
#: Below this many calm blocks an order-statistic interval does not reach 95%; the extremes of single turns stand in.
FEWEST_FOR_INTERVAL = 6
_TIGHTEST, _SPREADS = 0.02, 3.0
_LOWEST_QUANTILE = 0.05
#: A reference that is known from before may be no further above its calm level: where float32 loses 10% to neighbours
#: for seconds at a time, int8 loses 20% and a comparison agrees with itself all the same.
_KNOWN_TOLERANCE = 0.05
Figures = List[Tuple[float, float]]


class Choice(NamedTuple):
    """The blocks that count, and the share by which the candidate exceeds its level where the reference is calm."""

    calm: List[bool]
    candidate_excess: float


class Estimate(NamedTuple):
    """Median ratio of the blocks that count, and the ends of its interval."""

    ratio: float
    low: float
    high: float


def highest_calm_ms(calm_ms: float, tolerance: float) -> float:
    """Up to where a reference whose calm level is known counts as calm, milliseconds."""
    return calm_ms * (1.0 + min(tolerance, _KNOWN_TOLERANCE))


class Level:
    """How fast one model runs undisturbed.

    Args:
        most: largest tolerance.
    """

    def __init__(self, most: float) -> None:
        self.ms = self.tolerance = 0.0
        self._most = max(_TIGHTEST, most)
        self._ordered = []  # type: List[float]

    def add(self, pair: Tuple[float, float]) -> None:
        """Take note of the figures of a block's two turns, milliseconds."""
        for figure in pair:
            bisect.insort(self._ordered, figure)
        self.ms = quantile(self._ordered, CALM_QUANTILE)
        spread = 1.0 - quantile(self._ordered, _LOWEST_QUANTILE) / self.ms
        self.tolerance = min(max(_TIGHTEST, _SPREADS * spread), self._most)


class Blocks:
    """The blocks timed so far.

    Args:
        policy: see :func:`autocompress.measure.rounds.compare`.
    """

    def __init__(self, policy: Mapping[str, Any]) -> None:
        self.candidate = []  # type: Figures
        self.reference = []  # type: Figures
        self.candidate_level = Level(policy["calm_tolerance"])
        self.reference_level = Level(policy["calm_tolerance"])
        self._policy = policy
        self._calls = []  # type: List[Sequence[List[float]]]

    def __len__(self) -> int:
        return len(self.reference)

    def add(self, turns: Sequence[List[float]]) -> None:
        """Take note of one block.

        Args:
            turns: sorted milliseconds of the calls of the candidate's earlier turn, the reference's two in order of
                time, and the candidate's later one.
        """
        first, second, third, fourth = (quantile(turn, 0.25) for turn in turns)
        self.candidate.append((first, fourth))
        self.reference.append((second, third))
        self.candidate_level.add((first, fourth))
        self.reference_level.add((second, third))
        self._calls.append(turns)

    def choose(self, alone: bool = False) -> Choice:
        """The calm blocks; ``alone`` asks these blocks only, whatever level is known from before."""
        known = math.inf
        if self._policy["calm_ms"] is not None and not alone:
            known = highest_calm_ms(self._policy["calm_ms"], self._policy["calm_tolerance"])
        near = [sorted(turns) for turns in _with_neighbours(self.reference)]
        level, tolerance = self.reference_level.ms, self.reference_level.tolerance
        limit, outer = min(level * (1.0 + tolerance), known), min(level * (1.0 + 2.0 * tolerance), known)
        by_reference = [quantile(turns, 0.5) <= limit and turns[-1] <= outer for turns in near]
        excess = self._candidate_excess(by_reference)
        if excess > self._policy["calm_tolerance"]:
            return Choice(by_reference, excess)
        together = self._together(_with_neighbours(self.candidate), near)
        most = self.candidate_level.tolerance + tolerance
        return Choice(
            [slower <= most and turns[-1] <= known for slower, turns in zip(together, near)],
            excess,
        )

    def candidate_at_level(self, choice: Choice) -> bool:
        """Whether the candidate ran at its own level wherever the reference did."""
        return choice.candidate_excess <= self._policy["calm_tolerance"]

    def kept(self, choice: Choice) -> List[bool]:
        """The calm blocks, or the calmest there were if none was calm."""
        if any(choice.calm):
            return choice.calm
        together = self._together(self.candidate, self.reference)
        limit = min(together) + self.candidate_level.tolerance + self.reference_level.tolerance
        return [slower <= limit for slower in together]

    def estimate(self, kept: Sequence[bool]) -> Estimate:
        """What the kept blocks say."""
        pairs = [(a, b) for a, b, keep in zip(self.candidate, self.reference, kept) if keep]
        logs = [math.log(mean(a) / mean(b)) for a, b in pairs]
        ratio = math.exp(quantile(sorted(logs), 0.5))
        if len(logs) < FEWEST_FOR_INTERVAL:
            return Estimate(ratio, min(min(a) / max(b) for a, b in pairs), max(max(a) / min(b) for a, b in pairs))
        low, high = correlated_interval(logs, 0.5 + self._policy["confidence"] / 2.0)
        return Estimate(ratio, math.exp(low), math.exp(high))

    def single_calls(self, kept: Sequence[bool]) -> Dict[str, Any]:
        """Percentiles of the candidate's and the reference's calls in kept blocks, and inferences a second."""
        found = {}  # type: Dict[str, Any]
        for name, places in (("candidate", (0, 3)), ("reference", (1, 2))):
            calls = sorted(
                call for turns, keep in zip(self._calls, kept) if keep for place in places for call in turns[place]
            )
            found[name + "_calls_ms"] = {
                "p50": quantile(calls, 0.5),
                "p90": quantile(calls, 0.9),
                "p99": quantile(calls, 0.99),
                "calls": len(calls),
            }
            found[name + "_inferences_per_second"] = len(calls) / (sum(calls) * 1e-3)
        return found

    def _candidate_excess(self, calm: Sequence[bool]) -> float:
        """By which share the candidate's typical turn in these blocks exceeds its level; in all where none is calm."""
        pairs = [pair for pair, keep in zip(self.candidate, calm) if keep] or self.candidate
        return quantile(sorted(figure for pair in pairs for figure in pair), 0.5) / self.candidate_level.ms - 1.0

    def _together(self, candidate: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> List[float]:
        """By which share each block's turns exceed the levels, the candidate's and the reference's added."""
        first, second = self.candidate_level.ms, self.reference_level.ms
        return [mean(a) / first + mean(b) / second - 2.0 for a, b in zip(candidate, reference)]


def _with_neighbours(figures: Figures) -> List[List[float]]:
    """Each block's turns between those just before and after: where those were calm, so was what lies between."""
    last = len(figures) - 1
    return [
        [figures[max(0, index - 1)][1], first, second, figures[min(index + 1, last)][0]]
        for index, (first, second) in enumerate(figures)
    ]
