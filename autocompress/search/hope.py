"""What a candidate's quality may become once it is trained for as long as a search trains anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan
from autocompress.core.protocols import TrialStore
from autocompress.core.space import SearchSpace
from autocompress.core.trial import TrialState
from autocompress.search.aim import Aim, healing_steps
from autocompress.search.training_steps import TrainingSteps

#: Gaps after all training, in allowed losses, of which more is not worth training for.
FAR = 2.0


def hope_of(
    space: SearchSpace, store: TrialStore, quality: Objective, constraints: Sequence[Constraint]
) -> Callable[[CompressionPlan, float], float]:
    """A function from a plan and its gap to the best quality to the gap after all training that may follow.

    Candidates are first refitted only: one that is worse than what was trained already is not beaten by it yet. What
    stays far from the loss allowed even then is judged as it is.
    """
    steps = TrainingSteps.of(space)

    def hope(plan: CompressionPlan, gap: float) -> float:
        lengths = () if steps is None else steps.lengths(plan, beyond=True)
        complete = [trial for trial in store.trials() if trial.state is TrialState.COMPLETE]
        if not lengths or not complete:
            return gap
        aim = Aim.of(complete, quality, constraints)
        hoped = aim.hoped(gap, healing_steps(plan), lengths)
        return hoped if hoped <= FAR * aim.allowed else gap

    return hope
