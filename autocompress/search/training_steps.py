"""The numbers of training steps that trials climb."""

from __future__ import annotations

from dataclasses import dataclass

from autocompress.core.plan import CompressionPlan
from autocompress.core.space import Choice, SearchSpace
from autocompress.search.aim import healing_steps

STEPS = "distillation:steps"
#: How far past the space's largest number of steps the point that users want most may go.
BEYOND = 2


@dataclass(frozen=True, slots=True)
class TrainingSteps:
    """The steps of one space.

    Args:
        choice: of the number of steps.
    """

    choice: Choice

    @classmethod
    def of(cls, space: SearchSpace) -> TrainingSteps | None:
        """None where the space offers no choice of steps."""
        choice = next((choice for choice in space.choices if choice.name == STEPS), None)
        return None if choice is None else cls(choice)

    @property
    def fewest(self) -> int:
        """What every candidate begins with."""
        return int(self.choice.options[0])

    @property
    def longest(self) -> int:
        """The most that the space offers."""
        return int(self.choice.options[-1])

    def lengths(self, plan: CompressionPlan, *, beyond: bool = False) -> tuple[int, ...]:
        """The numbers of steps that a plan can still be trained for, rising; none where nothing is trained.

        Args:
            plan: as it was trained.
            beyond: whether :data:`BEYOND` times the space's largest number counts.
        """
        if plan.distillation is None:
            return ()
        options = [*map(int, self.choice.options), *([BEYOND * self.longest] if beyond else [])]
        return tuple(steps for steps in options if steps > healing_steps(plan))
