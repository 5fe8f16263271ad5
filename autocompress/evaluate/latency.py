"""Two ways to know a candidate's latency: measured on the device, or estimated from its profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from autocompress.compress.apply import Compressor
from autocompress.compress.outline import outline
from autocompress.core.measurement import Measurement, TimingPolicy
from autocompress.core.plan import CompressionPlan
from autocompress.core.protocols import Artifact, CostModel, Runtime
from autocompress.evaluate.agreement import AgreementCheck
from autocompress.graph.model_graph import ModelGraph
from autocompress.measure.latency import latency_measurement

#: Detail of a latency: how the outputs of that very artifact differ from those that were scored.
OUTPUTS = "outputs"
#: A search's candidates differ by far more than short turns lean, and int8 is up to 30% slower between calm spells.
SHORTEST_BLOCK_MS = 8.0
# On a calm machine both end much earlier. What a busy one leaves open, the front settles: it is measured again.
SCREEN = TimingPolicy(block_ms=20.0, half_width=0.03, max_seconds=0.3, min_blocks=6, warmup_seconds=0.05)
CONFIRM = TimingPolicy(
    block_ms=20.0,
    shortest_block_ms=SHORTEST_BLOCK_MS,
    half_width=0.02,
    max_seconds=0.9,
    patience=2.0,
    min_blocks=6,
    warmup_seconds=0.1,
)
#: Careful figures of one plan this near to each other agree.
_ALIKE = 0.05
#: Short looks this near to each other agree, and so many settle a figure where two do not.
_LOOKS_ALIKE, _LOOKS = 0.1, 3


class MeasuredLatency:
    """Times a candidate against the uncompressed graph, interleaved, in this process.

    Args:
        runtime: loads and times artifacts.
        baseline: the uncompressed graph, loaded in that runtime.
        reference_ms: the baseline's latency at its calm level, which turns ratios into milliseconds.
        target: name that the measurements carry.
        screen: policy of the quick look.
        confirm: policy of the careful one.
        agreement: sees that what is confirmed computes the same there as where quality is scored; None where the
            runtime is the same, or gives no outputs.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        baseline: Artifact,
        reference_ms: float,
        target: str,
        screen: TimingPolicy = SCREEN,
        confirm: TimingPolicy = CONFIRM,
        agreement: AgreementCheck | None = None,
    ) -> None:
        self._runtime = runtime
        self._baseline = baseline
        self._reference_ms = reference_ms
        self._target = target
        self._screen = screen
        self._confirm = confirm
        self._agreement = agreement
        self._screened: dict[str, Measurement] = {}
        #: The short looks at each plan.
        self._looks: dict[str, list[Measurement]] = {}
        #: The careful figures of each plan, however long it was trained, rising.
        self._careful: dict[str, list[Measurement]] = {}

    def screen(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """A quick figure; weights do not matter for it, so healing more or less of the same plan does not change it."""
        form = plan.replace(distillation=None).digest
        if form not in self._screened:
            self._screened[form] = self._time(self._runtime.build(graph), self._screen)
        return self._screened[form]

    def confirm(
        self, graph: ModelGraph, plan: CompressionPlan, screened: Measurement, *, decides: bool = True
    ) -> Measurement:
        """A figure of the graph that would ship: a careful one where it ``decides``, else one of short looks.

        What is trained next is picked by short looks, and the luckiest first: two that agree are needed (the higher
        counts), else the median of three.

        Weights do not matter for it, so a plan has one careful figure in a session, however long it is trained: it
        stands for this graph too where a short look at this one agrees (``details["look_ms"]``). Else this one is timed
        as carefully. Of two the lower counts, as figures well apart were disturbed more often than flattered, however
        well their turns agree; of more the median (``details["other_ms"]`` tells the others).

        Raises:
            CandidateError: it computes something else there; ``details["outputs"]`` tells how little it differs else.
        """
        artifact = self._runtime.build(graph)
        agreement = self._agreement.check(graph, artifact, plan) if self._agreement and decides else None
        found = self._carefully(artifact, plan) if decides else self._shortly(artifact, plan, screened)
        return found if agreement is None else replace(found, details={**found.details, OUTPUTS: asdict(agreement)})

    def _shortly(self, artifact: Artifact, plan: CompressionPlan, screened: Measurement) -> Measurement:
        looks = self._looks.setdefault(plan.replace(distillation=None).digest, [screened])
        looks.append(self._time(artifact, self._screen))
        low, high = sorted((looks[0].value, looks[-1].value))
        if len(looks) < _LOOKS and high > (1 + _LOOKS_ALIKE) * low:
            looks.append(self._time(artifact, self._screen))
        ordered = sorted(looks, key=lambda look: look.value)
        found = ordered[len(ordered) // 2]
        return replace(
            found, details={**found.details, "other_ms": [look.value for look in ordered if look is not found]}
        )

    def _carefully(self, artifact: Artifact, plan: CompressionPlan) -> Measurement:
        form = plan.replace(distillation=None).digest
        figures = self._careful.setdefault(form, [])
        if not figures:
            figures.append(self._time(artifact, self._confirm))
            return figures[0]
        known = _middle(figures)
        look = self._time(artifact, self._screen)
        if abs(look.value - known.value) <= _ALIKE * known.value:
            return replace(known, details={**known.details, "look_ms": look.value})
        figures.append(self._time(artifact, self._confirm))
        figures.sort(key=lambda figure: figure.value)
        found = _middle(figures)
        others = [figure.value for figure in figures if figure is not found]
        return replace(found, details={**found.details, "other_ms": others})

    def _time(self, artifact: Artifact, policy: TimingPolicy) -> Measurement:
        timing = self._runtime.time(artifact, self._baseline, policy)
        description: dict[str, Any] = dict(self._runtime.describe())
        return latency_measurement(timing, reference_ms=self._reference_ms, target=self._target, runtime=description)


def _middle(figures: Sequence[Measurement]) -> Measurement:
    """The median of rising figures; of two in the middle the lower."""
    return figures[(len(figures) - 1) // 2]


class EstimatedLatency:
    """Asks a cost model; for targets that are not attached.

    Args:
        model: estimates latency from the uncompressed graph and a plan.
        compressor: of the uncompressed graph.
    """

    def __init__(self, *, model: CostModel, compressor: Compressor) -> None:
        self._model = model
        self._compressor = compressor

    def screen(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """The estimate for ``plan``."""
        return self._model.estimate(*outline(self._compressor, plan))

    def confirm(
        self, graph: ModelGraph, plan: CompressionPlan, screened: Measurement, *, decides: bool = True
    ) -> Measurement:
        """The same estimate: healing does not change it."""
        return screened
