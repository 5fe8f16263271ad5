"""Artifacts of plans that change one thing, refitted where there is time for all of them.

What leaving something out costs is not what it does to the outputs at once, but what is left once the other weights
have made up for it: half of a trunk's channels may move the outputs more than a whole block, and matter less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autocompress.compress.apply import Compressor
from autocompress.core.errors import CandidateError, Interrupted
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.protocols import Artifact
from autocompress.core.space import Choice
from autocompress.evaluate.evaluator import HealingStage
from autocompress.evaluate.sensitivity import single_changes
from autocompress.graph.model_graph import ModelGraph


class SingleChanges:
    """Builds the artifacts that sensitivities are taken of.

    Args:
        compressor: of the uncompressed graph.
        build: loads a graph in the runtime that quality is scored in.
        healing: refits what a plan leaves out; None where the graph cannot be trained.
    """

    def __init__(
        self, compressor: Compressor, build: Callable[[ModelGraph], Artifact], healing: HealingStage | None
    ) -> None:
        self._compressor = compressor
        self._build = build
        self._healing = healing

    def settle(self, choices: Sequence[Choice], seconds: float, clock: Callable[[], float] = time.monotonic) -> bool:
        """Whether what is left out is refitted: so long as all that ``choices`` offer takes no more than ``seconds``.

        All or nothing, as the two kinds of figures do not compare. Two refits are made to see how long one takes.
        """
        plans = [plan for plan in single_changes(choices) if plan.restructures]
        if self._healing is None or not plans:
            self._healing = None
            return False
        try:
            # The first also runs the uncompressed network.
            self(plans[0])
            started = clock()
            self(plans[len(plans) // 2])
        except (CandidateError, Interrupted):
            self._healing = None
            return False
        if (clock() - started) * len(plans) > seconds:
            self._healing = None
        return self._healing is not None

    def __call__(self, plan: CompressionPlan) -> Artifact:
        """The artifact of a plan, its activations' ranges only roughly known.

        Raises:
            CandidateError: it cannot be refitted.
            Interrupted: the refit was asked to stop.
        """
        pruned = self._compressor.pruned(plan)
        if plan.restructures and self._healing is not None:
            try:
                pruned = self._healing.heal(pruned, plan.replace(distillation=DistillationPlan(steps=0)), 1.0)
            except (CandidateError, Interrupted):
                raise
            except Exception as failure:  # as for a candidate: one change that fails ends no search
                raise CandidateError("heal", f"{type(failure).__name__}: {failure}") from failure
        return self._build(self._compressor.finish(pruned, plan, draft=True))
