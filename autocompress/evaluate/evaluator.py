"""From a plan to a trial, cheap stages first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from autocompress.compress.apply import Compressor
from autocompress.core.errors import CandidateError, Interrupted, UserError
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.objective import QUALITY_METRICS, Constraint, Objective
from autocompress.core.pareto import miss
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.further_metrics import MetricScorer
from autocompress.graph.model_graph import ModelGraph


class LatencyScorer(Protocol):
    """Measures or estimates the latency of a candidate."""

    def screen(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        """A quick figure, taken before anything dear is done."""

    def confirm(
        self, graph: ModelGraph, plan: CompressionPlan, screened: Measurement, *, decides: bool = True
    ) -> Measurement:
        """A figure of the graph that would ship: a careful one where it ``decides``, else a quick one."""


class HealingStage(Protocol):
    """Heals a pruned graph up to a share of its plan's steps; continues where an earlier call stopped."""

    def heal(self, pruned: ModelGraph, plan: CompressionPlan, share: float) -> ModelGraph:
        """The graph after ``share`` of the plan's distillation steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPolicy:
    """How much to spend before a candidate must have shown promise.

    Args:
        quick_samples: validation samples of the first accuracy stage.
        budgets: shares of the distillation steps after which a candidate is judged, rising to 1.
        worthwhile: share by which a candidate must be cheaper than one at least as good before it is healed; less is
            within the noise of timing and not worth the training (epsilon dominance, Laumanns et al. 2002).
        recovery: share of the remaining gap to the best quality that the rest of healing is assumed to win back
            until this run has seen how much it really does.
    """

    quick_samples: int = 512
    budgets: tuple[float, ...] = (0.25, 1.0)
    worthwhile: float = 0.03
    recovery: float = 0.7


@dataclass(slots=True)
class _Progress:
    """What is known of the candidate in flight."""

    number: int
    candidate: Candidate
    on_stage: Callable[[int, str, str], None]
    clock: Callable[[], float]
    measurements: dict[str, Measurement] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = "start"

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Charge the time spent inside to ``stage``."""
        self.stage = stage
        self.on_stage(self.number, self.candidate.label, stage)
        started = self.clock()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.clock() - started


class _OutOfReachError(Exception):
    """The candidate cannot join the front any more."""


class CandidateEvaluator:
    """Scores candidates on the artifact that would ship.

    Stages: prune, build, screen latency, (heal, quick accuracy) for each budget, full accuracy, confirm latency. After
    each the candidate is compared with the trials so far; one that cannot reach the front any more stops as PRUNED.

    Args:
        compressor: prunes and quantizes, with its caches.
        healing: wins accuracy back after pruning.
        build: loads a graph in the runtime that runs it.
        quality: scores an artifact on the validation data.
        latency: measures or estimates.
        further: scorers of other metrics that objectives or constraints are about.
        objectives: what dominates what.
        constraints: candidates that break one before healing stop early.
        history: complete trials of an earlier session of this run.
        hope: the gap to the best quality that is left after all training that may follow, from a plan and its gap now.
        keep: called with each COMPLETE trial and its artifact's graph.
        on_stage: called with number, label and stage.
        should_stop: asked between stages.
        clock: seconds that stages are charged with; one that stands still while a device is away charges nobody.
    """

    def __init__(
        self,
        *,
        compressor: Compressor,
        healing: HealingStage | None,
        build: Callable[[ModelGraph], Any],
        quality: QualityEvaluator,
        latency: LatencyScorer,
        further: Sequence[MetricScorer] = (),
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        policy: EvaluationPolicy | None = None,
        history: Sequence[Trial] = (),
        hope: Callable[[CompressionPlan, float], float] = lambda plan, gap: gap,
        keep: Callable[[Trial, ModelGraph], None] = lambda trial, graph: None,
        on_stage: Callable[[int, str, str], None] = lambda number, label, stage: None,
        should_stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._compressor = compressor
        self._healing = healing
        self._build = build
        self._quality = quality
        self._latency = latency
        self._further = tuple(further)
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        aims = {objective.metric for objective in objectives}
        self._aside = tuple(c for c in self._constraints if c.metric not in aims)
        self._policy = policy or EvaluationPolicy()
        self._complete = [t for t in history if t.state is TrialState.COMPLETE]
        self._recoveries: list[float] = []
        self._hope = hope
        self._keep = keep
        self._on_stage = on_stage
        self._should_stop = should_stop
        self._clock = clock

    def evaluate(self, number: int, candidate: Candidate) -> Trial:
        """Score one candidate; a bad one becomes a FAIL trial with its reason.

        Raises:
            Interrupted: the user asked to stop.
        """
        progress = _Progress(number=number, candidate=candidate, on_stage=self._on_stage, clock=self._clock)
        state, error = TrialState.COMPLETE, None
        graph: ModelGraph | None = None
        try:
            graph = self._score(progress)
        except _OutOfReachError as reason:
            state, error = TrialState.PRUNED, str(reason)
        except Interrupted:
            raise
        except CandidateError as failure:
            state, error = TrialState.FAIL, str(failure)
        except UserError as failure:
            state, error = TrialState.FAIL, f"{progress.stage}: {failure}"
        except Exception as failure:  # whatever a candidate does, the search goes on
            first = (str(failure).splitlines() or [""])[0][:300]
            state, error = TrialState.FAIL, f"{progress.stage}: {type(failure).__name__}: {first}"
        trial = Trial(
            number=number,
            candidate=candidate,
            state=state,
            measurements=progress.measurements,
            error=error,
            stage_seconds=progress.seconds,
        )
        if graph is not None:
            self._complete.append(trial)
            self._keep(trial, graph)
        return trial

    def _score(self, progress: _Progress) -> ModelGraph:
        plan = progress.candidate.plan
        with self._timed(progress, "prune"):
            pruned = self._compressor.pruned(plan)
        with self._timed(progress, "quantize"):
            draft = self._compressor.finish(pruned, plan, draft=True)
            progress.measurements["size_bytes"] = _size(draft)
        with self._timed(progress, "screen latency"):
            screened = self._latency.screen(draft, plan)
        progress.measurements["latency_ms"] = screened
        self._score_further(progress, draft, early=True)
        heals = plan.restructures and self._healing is not None
        self._check_reach(progress, self._ceiling(), "at its best", self._policy.worthwhile if heals else 0.0)
        self._check_constraints(progress)
        graph, artifact = self._recover(progress, pruned)
        with self._timed(progress, "accuracy"):
            quality = self._quality.score(artifact)
        progress.measurements[quality.metric] = quality
        # What cannot be on the front is timed as well, on its own bytes, but shortly.
        decides = progress.candidate.source == "baseline" or self._beating(progress, quality.value) is None
        with self._timed(progress, "latency"):
            progress.measurements["latency_ms"] = self._latency.confirm(graph, plan, screened, decides=decides)
            # A short look may flatter, and no such figure takes a place on the front from a careful one.
            if not decides and self._beating(progress, quality.value, likely=True) is None:
                progress.measurements["latency_ms"] = self._latency.confirm(graph, plan, screened)
        progress.measurements["size_bytes"] = _size(graph)
        self._score_further(progress, graph, early=False)
        return graph

    def _score_further(self, progress: _Progress, graph: ModelGraph, *, early: bool) -> None:
        for scorer in self._further:
            if scorer.early is early:
                with self._timed(progress, scorer.metric.rpartition("_")[0].replace("_", " ")):
                    progress.measurements[scorer.metric] = scorer.score(graph, progress.candidate.plan)

    def _recover(self, progress: _Progress, pruned: ModelGraph) -> tuple[ModelGraph, Any]:
        """Heal in rising budgets, judging after each on a small sample; the graph, and the same loaded."""
        plan = progress.candidate.plan
        heals = plan.restructures and self._healing is not None
        steps = (plan.distillation or DistillationPlan()).steps if heals else 0
        budgets = self._policy.budgets if steps else (1.0,)
        after_first: float | None = None
        for share in budgets:
            healed = pruned
            if heals and self._healing is not None:
                with self._timed(progress, "heal"):
                    healed = self._healing.heal(pruned, plan, share)
            with self._timed(progress, "quantize"):
                graph = self._compressor.finish(healed, plan)
            with self._timed(progress, "quick accuracy"):
                artifact = self._build(graph)
                quick = self._quality.score(artifact, samples=self._policy.quick_samples)
            value = quick.value
            optimistic = quick.interval.high if quick.interval is not None else value
            gap = max(0.0, self._ceiling() - value)
            if share < 1.0:
                after_first = value
                optimistic = max(optimistic, value) + self._expected_recovery() * gap
                stage = f"after {share:.0%} of healing"
            else:
                if after_first is not None and self._ceiling() > after_first:
                    self._recoveries.append((value - after_first) / (self._ceiling() - after_first))
                stage = f"on {self._policy.quick_samples} samples"
            progress.measurements[f"quick_{quick.metric}"] = quick
            self._check_reach(progress, self._after_training(plan, min(optimistic, max(value, self._ceiling()))), stage)
        return graph, artifact

    def _after_training(self, plan: CompressionPlan, quality: float) -> float:
        """What a quality may become if the plan is trained for longer in trials to come."""
        gap = self._ceiling() - quality
        return quality if gap <= 0 else self._ceiling() - self._hope(plan, gap)

    def _expected_recovery(self) -> float:
        """Share of the gap that the rest of healing wins back: the best seen lately, or the policy's."""
        return max([0.0, *self._recoveries[-8:]]) if len(self._recoveries) >= 3 else self._policy.recovery

    def _ceiling(self) -> float:
        """Best quality of any complete trial; 1 before the first."""
        metric = self._quality.metric
        return max((t.value(metric) for t in self._complete), default=1.0)

    def _check_reach(self, progress: _Progress, optimistic_quality: float, when: str, worthwhile: float = 0.0) -> None:
        """Stop a candidate that some complete trial beats even if its quality turns out as hoped.

        With ``worthwhile`` a trial beats it too that costs more by no more than that share.
        """
        if progress.candidate.source == "baseline":
            return
        found = self._beating(progress, optimistic_quality, worthwhile)
        if found is not None:
            trial, hoped = found
            listed = ", ".join(f"{_named(progress, metric)} {value:.4g}" for metric, value in hoped.items())
            raise _OutOfReachError(f"out of reach {when}: trial {trial.number} beats the hoped-for {listed}")

    def _beating(
        self, progress: _Progress, quality: float, worthwhile: float = 0.0, *, likely: bool = False
    ) -> tuple[Trial, dict[str, float]] | None:
        """A complete trial that beats the candidate at its best, and what that is by metric; None where none does.

        With ``likely`` not at its best but by its figures as they are.
        """
        hoped: dict[str, float] = {}
        for objective in self._objectives:
            if objective.metric in QUALITY_METRICS:
                hoped[objective.metric] = quality
            elif objective.metric in progress.measurements:
                measurement = progress.measurements[objective.metric]
                best = measurement.value
                if measurement.provenance is Provenance.MEASURED and measurement.interval is not None and not likely:
                    best = measurement.interval.low
                hoped[objective.metric] = best
            else:
                return None
        for trial in self._complete:
            # What breaks a bound on another metric can take no place from what keeps it.
            if miss(trial, self._aside) > 0:
                continue
            losses = [
                (o.loss(trial.value(o.metric)) * (1.0 if o.maximize else 1.0 - worthwhile), o.loss(hoped[o.metric]))
                for o in self._objectives
            ]
            if all(mine <= theirs for mine, theirs in losses) and any(mine < theirs for mine, theirs in losses):
                return trial, hoped
        return None

    def _check_constraints(self, progress: _Progress) -> None:
        """Stop before healing what breaks a bound on latency or size by more than some complete trial does."""
        for constraint in self._constraints:
            measurement = progress.measurements.get(constraint.metric)
            if measurement is None or constraint.metric in QUALITY_METRICS or progress.candidate.source == "baseline":
                continue
            best = measurement.interval.low if measurement.interval is not None else measurement.value
            if measurement.provenance is Provenance.ESTIMATED:
                best = measurement.value
            # Misses by little, or by less than all others, are worth knowing: where nothing fits the nearest are shown.
            known = [t.value(constraint.metric) for t in self._complete if constraint.metric in t.measurements]
            if best > constraint.bound * 1.25 and best >= min(known, default=0.0):
                name = _named(progress, constraint.metric)
                raise _OutOfReachError(f"{name} {measurement.value:.4g} breaks {constraint}")

    @contextmanager
    def _timed(self, progress: _Progress, stage: str) -> Iterator[None]:
        if self._should_stop():
            raise Interrupted
        with progress.timed(stage):
            yield


def _named(progress: _Progress, metric: str) -> str:
    """The metric, with the word where its value is an estimate: reasons stand in tables and logs too."""
    found = progress.measurements.get(metric)
    return f"estimated {metric}" if found is not None and found.provenance is Provenance.ESTIMATED else metric


def _size(graph: ModelGraph) -> Measurement:
    size = float(graph.size_bytes())
    return Measurement(metric="size_bytes", value=size, unit="bytes", provenance=Provenance.MEASURED, samples=(size,))
