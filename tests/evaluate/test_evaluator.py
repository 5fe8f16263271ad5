"""From a plan to a trial, with real small graphs in a real runtime; only clocks and trainers are made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autocompress.compress.apply import Compressor
from autocompress.core.errors import CandidateError, Interrupted
from autocompress.core.measurement import Interval, Measurement, Provenance
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.trial import Candidate, Trial, TrialState
from autocompress.evaluate.accuracy import QualityEvaluator
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.evaluate.evaluator import CandidateEvaluator, EvaluationPolicy
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime
from autocompress.recover.staged import StagedHealing

OBJECTIVES = (Objective(metric="accuracy"), Objective(metric="latency_ms"))
AS_IT_CAME = CompressionPlan()
INT8 = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
PRUNED = CompressionPlan(prune={"a": 0.25}, distillation=DistillationPlan(steps=8, batch_size=16))
RUNTIME = OnnxRuntime()


def candidate(plan: CompressionPlan, source: str = "tpe", label: str = "") -> Candidate:
    return Candidate(plan=plan, source=source, label=label)


class ByMacs:
    """A latency of one millisecond for ten thousand MACs, give or take 2%; remembers what it was shown."""

    def __init__(self, provenance: Provenance = Provenance.MEASURED) -> None:
        self._provenance = provenance
        self.factor = 1.0
        self.screened: list[ModelGraph] = []
        self.confirmed: list[ModelGraph] = []
        self.decided: list[bool] = []

    def screen(self, graph: ModelGraph, plan: CompressionPlan) -> Measurement:
        self.screened.append(graph)
        return self._measurement(graph)

    def confirm(
        self, graph: ModelGraph, plan: CompressionPlan, screened: Measurement, *, decides: bool = True
    ) -> Measurement:
        self.confirmed.append(graph)
        self.decided.append(decides)
        return self._measurement(graph)

    def _measurement(self, graph: ModelGraph) -> Measurement:
        value = self.factor * graph.macs() / 1e4
        return Measurement(
            metric="latency_ms",
            value=value,
            unit="ms",
            provenance=self._provenance,
            interval=Interval(low=0.98 * value, high=1.02 * value),
            samples=(value,) if self._provenance is Provenance.MEASURED else (),
        )


class TableHealing:
    """Gives, for each share of healing, the graph that a function makes of the pruned one."""

    def __init__(self, graphs: Mapping[float, Callable[[ModelGraph], ModelGraph]]) -> None:
        self._graphs = graphs
        self.shares: list[float] = []

    def heal(self, pruned: ModelGraph, plan: CompressionPlan, share: float) -> ModelGraph:
        self.shares.append(share)
        return self._graphs[share](pruned)


def unchanged(graph: ModelGraph) -> ModelGraph:
    return graph


def destroyed(graph: ModelGraph) -> ModelGraph:
    """Answers class 3 whatever it sees."""
    bias = np.array([0, 0, 0, 9, 0], np.float32)
    return graph.with_initializers({"fc.weight": np.zeros_like(graph.initializers["fc.weight"]), "fc.bias": bias})


def nudged(graph: ModelGraph) -> ModelGraph:
    """With a bias that nothing else gives."""
    return graph.with_initializers({"fc.bias": np.full(5, 0.125, np.float32)})


def poisoned(graph: ModelGraph) -> ModelGraph:
    return graph.with_initializers({"fc.bias": np.full(5, np.nan, np.float32)})


@pytest.fixture(scope="module")
def net() -> ModelGraph:
    """conv a - relu - conv b - relu - pool - fc of ``(batch, 3, 6, 6)`` to ``(batch, 5)``."""
    rng = np.random.default_rng(2)
    arrays = {
        "a.weight": rng.normal(0, 0.2, (16, 3, 3, 3)),
        "a.bias": rng.normal(0, 0.1, 16),
        "b.weight": rng.normal(0, 0.1, (16, 16, 3, 3)),
        "b.bias": rng.normal(0, 0.1, 16),
        "fc.weight": rng.normal(0, 1.0, (5, 16)),
        "fc.bias": np.zeros(5),
    }
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "a.weight", "a.bias"], ["a"], name="a", pads=[1] * 4),
            node("Relu", ["a"], ["ra"], name="ra"),
            node("Conv", ["ra", "b.weight", "b.bias"], ["b"], name="b", pads=[1] * 4),
            node("Relu", ["b"], ["rb"], name="rb"),
            node("GlobalAveragePool", ["rb"], ["pool"], name="pool"),
            node("Flatten", ["pool"], ["flat"], name="flat"),
            node("Gemm", ["flat", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    found = ModelGraph(normalize(ir.from_proto(model)))
    # Without this the pool's outputs are so alike that one class wins everywhere.
    features = run(found, images())
    return found.with_initializers({"fc.bias": -features.mean(0)})


def images() -> NDArray[np.float32]:
    rng = np.random.default_rng(4)
    return (rng.normal(size=(160, 3, 6, 6)) + 2 * rng.normal(size=(160, 3, 1, 1))).astype(np.float32)


def run(graph: ModelGraph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(RUNTIME.build(graph).run((x,))[0])


@pytest.fixture(scope="module")
def data(net: ModelGraph) -> ArrayDataset:
    """Images with the uncompressed net's own answers as labels: it scores 1."""
    return ArrayDataset([images()], run(net, images()).argmax(1), name="toy")


@pytest.fixture(scope="module")
def compressor(net: ModelGraph, data: ArrayDataset) -> Compressor:
    return Compressor(net, dataset=data)


@dataclass
class Bench:
    """An evaluator with all that it told and kept."""

    evaluator: CandidateEvaluator
    latency: ByMacs
    kept: list[tuple[Trial, ModelGraph]] = field(default_factory=list)
    stages: list[tuple[int, str, str]] = field(default_factory=list)

    def evaluate(self, number: int, plan: CompressionPlan, source: str = "tpe", label: str = "") -> Trial:
        return self.evaluator.evaluate(number, candidate(plan, source, label))


Make = Callable[..., Bench]


@pytest.fixture
def make(compressor: Compressor, data: ArrayDataset) -> Make:
    def bench(healing: Any = None, latency: ByMacs | None = None, **options: Any) -> Bench:
        scorer = latency or ByMacs()
        made = Bench(evaluator=None, latency=scorer)  # type: ignore[arg-type]
        given = {
            "compressor": compressor,
            "healing": healing,
            "build": RUNTIME.build,
            "quality": QualityEvaluator(RUNTIME, data),
            "latency": scorer,
            "objectives": OBJECTIVES,
            "keep": lambda trial, graph: made.kept.append((trial, graph)),
            "on_stage": lambda *at: made.stages.append(at),
            "policy": EvaluationPolicy(quick_samples=80),
            **options,
        }
        made.evaluator = CandidateEvaluator(**given)
        return made

    return bench


def test_a_complete_trial_has_every_measurement(make: Make, net: ModelGraph) -> None:
    trial = make().evaluate(7, AS_IT_CAME, "baseline")
    assert (trial.number, trial.state, trial.error) == (7, TrialState.COMPLETE, None)
    assert trial.value("accuracy") == 1.0
    assert trial.value("latency_ms") == net.macs() / 1e4
    assert trial.value("size_bytes") == net.size_bytes()
    assert trial.measurements["accuracy"].details["n"] == 160
    assert trial.measurements["quick_accuracy"].details["n"] == 80


def test_what_is_scored_is_the_artifact(make: Make, compressor: Compressor, net: ModelGraph) -> None:
    bench = make()
    trial = bench.evaluate(0, INT8)
    (kept,) = bench.kept
    assert kept[0] is trial
    assert kept[1].digest == compressor.finish(net, INT8).digest
    assert trial.value("size_bytes") == len(kept[1].to_bytes()) < net.size_bytes()
    assert bench.latency.confirmed == [kept[1]]
    assert bench.latency.decided == [True]


class Flattering(ByMacs):
    """A short look at what ships finds a share of its latency."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def confirm(
        self, graph: ModelGraph, plan: CompressionPlan, screened: Measurement, *, decides: bool = True
    ) -> Measurement:
        self.factor = 1.0 if decides else self._share
        found = super().confirm(graph, plan, screened, decides=decides)
        self.factor = 1.0
        return found


@pytest.mark.parametrize(("share", "asked"), [(0.5, [False, True]), (0.99, [False])])
def test_a_short_look_takes_no_place_on_the_front(
    make: Make,
    net: ModelGraph,
    compressor: Compressor,
    trial_factory: Callable[..., Trial],
    share: float,
    asked: list[bool],
) -> None:
    """What is beaten is timed shortly; should that figure say otherwise, it is timed carefully."""
    cost = compressor.pruned(PRUNED).macs() / 1e4
    bench = make(
        TableHealing({0.25: destroyed, 1.0: destroyed}),
        latency=Flattering(share),
        history=beaten_by(trial_factory, accuracy=0.9, latency_ms=0.9 * cost),
        hope=lambda plan, gap: 0.0,
    )
    trial = bench.evaluate(2, PRUNED)
    assert trial.state is TrialState.COMPLETE
    assert bench.latency.decided == asked
    assert trial.value("latency_ms") == pytest.approx((1.0 if asked[-1] else share) * cost)


def test_what_is_kept_is_the_healed_graph(make: Make) -> None:
    bench = make(TableHealing({0.25: unchanged, 1.0: nudged}))
    assert bench.evaluate(0, PRUNED).state is TrialState.COMPLETE
    kept = bench.kept[0][1]
    np.testing.assert_array_equal(kept.initializers["fc.bias"], np.full(5, 0.125, np.float32))
    assert kept.initializers["a.weight"].shape[0] == 12


def test_a_real_healing_is_scored_and_kept(
    make: Make, net: ModelGraph, data: ArrayDataset, compressor: Compressor
) -> None:
    bench = make(StagedHealing(net, data, threads=1))
    plan = PRUNED.replace(layers=INT8.layers)
    assert bench.evaluate(0, plan).state is TrialState.COMPLETE
    healed = StagedHealing(net, data, threads=1).heal(compressor.pruned(plan), plan)
    assert bench.kept[0][1].digest == compressor.finish(healed, plan).digest


def test_healing_goes_through_rising_budgets(make: Make) -> None:
    healing = TableHealing({0.25: unchanged, 0.5: unchanged, 1.0: unchanged})
    make(healing).evaluate(0, PRUNED)
    assert healing.shares == [0.25, 1.0]
    healing.shares.clear()
    make(healing, policy=EvaluationPolicy(budgets=(0.25, 0.5, 1.0))).evaluate(0, PRUNED)
    assert healing.shares == [0.25, 0.5, 1.0]


def test_where_nothing_is_removed_nothing_is_healed(make: Make) -> None:
    healing = TableHealing({})
    assert make(healing).evaluate(0, INT8.replace(distillation=PRUNED.distillation)).state is TrialState.COMPLETE
    assert healing.shares == []


@pytest.mark.parametrize("distillation", [None, DistillationPlan(steps=0)])
def test_healing_without_steps_is_one_call(make: Make, distillation: DistillationPlan | None) -> None:
    healing = TableHealing({1.0: unchanged})
    make(healing).evaluate(0, PRUNED.replace(distillation=distillation))
    assert healing.shares == [1.0]


def test_stages_go_from_cheap_to_dear_and_their_seconds_are_kept(make: Make) -> None:
    bench = make(TableHealing({0.25: unchanged, 1.0: unchanged}))
    trial = bench.evaluate(3, PRUNED, label="prune 25%")
    once = ["heal", "quantize", "quick accuracy"]
    assert [stage for _, _, stage in bench.stages] == [
        "prune",
        "quantize",
        "screen latency",
        *once,
        *once,
        "accuracy",
        "latency",
    ]
    assert {(number, label) for number, label, _ in bench.stages} == {(3, "prune 25%")}
    assert set(trial.stage_seconds) == {stage for _, _, stage in bench.stages}
    assert all(seconds >= 0 for seconds in trial.stage_seconds.values())


def test_stages_are_charged_by_the_clock_they_are_given(make: Make) -> None:
    ticks = itertools.count()
    trial = make(clock=lambda: float(next(ticks))).evaluate(0, AS_IT_CAME, "baseline")
    assert {name: trial.stage_seconds[name] for name in ("prune", "accuracy")} == {"prune": 1.0, "accuracy": 1.0}


def test_a_failure_keeps_its_reason_and_the_next_trial_goes_on(make: Make) -> None:
    bench = make()
    failed = bench.evaluate(0, CompressionPlan(prune={"c": 0.5}))
    assert (failed.state, failed.measurements) == (TrialState.FAIL, {})
    assert failed.error is not None
    assert failed.error.startswith("prune: The plan names an unknown group 'c'")
    assert bench.evaluate(1, INT8).state is TrialState.COMPLETE
    assert [trial.number for trial, _ in bench.kept] == [1]


def test_a_failed_stage_keeps_what_was_measured_before_it(make: Make) -> None:
    def fails(graph: ModelGraph) -> ModelGraph:
        raise CandidateError("heal", "the loss is nan at step 3")

    trial = make(TableHealing({0.25: fails})).evaluate(0, PRUNED)
    assert (trial.state, trial.error) == (TrialState.FAIL, "heal: the loss is nan at step 3")
    assert set(trial.measurements) == {"size_bytes", "latency_ms"}
    assert "heal" in trial.stage_seconds and "accuracy" not in trial.stage_seconds


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError, MemoryError, OSError])
def test_an_unexpected_error_is_a_failure_with_stage_kind_and_first_line(make: Make, kind: type[Exception]) -> None:
    def fails(graph: ModelGraph) -> ModelGraph:
        raise kind("no room for it\nand a long trace")

    trial = make(TableHealing({0.25: fails})).evaluate(0, PRUNED)
    assert trial.state is TrialState.FAIL
    assert trial.error is not None
    assert trial.error.startswith(f"heal: {kind.__name__}: ") and "no room for it" in trial.error
    assert "\n" not in trial.error


def test_an_error_without_a_message_still_has_a_reason(make: Make) -> None:
    def fails(graph: ModelGraph) -> ModelGraph:
        raise MemoryError

    assert make(TableHealing({0.25: fails})).evaluate(0, PRUNED).error == "heal: MemoryError: "


def test_outputs_that_are_nan_fail_the_candidate(make: Make) -> None:
    bench = make(TableHealing({0.25: poisoned}))
    trial = bench.evaluate(0, PRUNED)
    assert trial.state is TrialState.FAIL
    assert trial.error is not None
    assert "values that are NaN or infinite" in trial.error
    assert bench.kept == []


def beaten_by(trial_factory: Callable[..., Trial], *, accuracy: float, latency_ms: float) -> tuple[Trial, ...]:
    """A history: the uncompressed model and one trial that candidates are measured by."""
    return (
        trial_factory(0, accuracy=1.0, latency_ms=1e3, source="baseline"),
        trial_factory(1, accuracy=accuracy, latency_ms=latency_ms),
    )


def test_a_candidate_that_is_slower_than_a_perfect_one_is_pruned_before_it_costs(
    make: Make, trial_factory: Callable[..., Trial]
) -> None:
    healing = TableHealing({})
    bench = make(healing, history=beaten_by(trial_factory, accuracy=1.0, latency_ms=0.001))
    trial = bench.evaluate(2, PRUNED)
    assert trial.state is TrialState.PRUNED
    assert trial.error is not None
    assert trial.error.startswith("out of reach at its best: trial 1 beats the hoped-for accuracy 1, latency_ms ")
    assert healing.shares == [] and bench.kept == []
    assert set(trial.measurements) == {"size_bytes", "latency_ms"}


def test_a_hopeless_candidate_is_pruned_after_the_first_budget(make: Make, trial_factory: Callable[..., Trial]) -> None:
    healing = TableHealing({0.25: destroyed, 1.0: unchanged})
    bench = make(healing, history=beaten_by(trial_factory, accuracy=0.99, latency_ms=0.001))
    trial = bench.evaluate(2, PRUNED)
    assert trial.state is TrialState.PRUNED
    assert trial.error is not None
    assert trial.error.startswith("out of reach after 25% of healing: trial 1 beats")
    assert healing.shares == [0.25]
    assert trial.measurements["quick_accuracy"].value < 0.5


def test_a_candidate_that_may_still_recover_goes_on(make: Make, trial_factory: Callable[..., Trial]) -> None:
    healing = TableHealing({0.25: destroyed, 1.0: unchanged})
    bench = make(healing, history=beaten_by(trial_factory, accuracy=0.5, latency_ms=0.001))
    assert bench.evaluate(2, PRUNED).state is TrialState.COMPLETE
    assert healing.shares == [0.25, 1.0]


def test_after_the_whole_healing_the_quick_sample_decides(make: Make, trial_factory: Callable[..., Trial]) -> None:
    healing = TableHealing({0.25: unchanged, 1.0: destroyed})
    bench = make(healing, history=beaten_by(trial_factory, accuracy=0.9, latency_ms=0.001))
    trial = bench.evaluate(2, PRUNED)
    assert trial.state is TrialState.PRUNED
    assert trial.error is not None
    assert trial.error.startswith("out of reach on 80 samples: trial 1 beats")
    assert "accuracy" not in trial.measurements


def test_it_learns_how_much_healing_wins_back(make: Make, trial_factory: Callable[..., Trial]) -> None:
    healing = TableHealing({0.25: destroyed, 1.0: destroyed})
    bench = make(healing, history=beaten_by(trial_factory, accuracy=0.5, latency_ms=0.001))
    reasons = [str(bench.evaluate(number, PRUNED).error) for number in range(2, 6)]
    # Nothing won back in three trials: the policy's 70% is no longer believed.
    assert ["of healing" in reason for reason in reasons] == [False, False, False, True]
    assert healing.shares == [0.25, 1.0] * 3 + [0.25]


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_trials_that_are_not_complete_beat_nobody(
    make: Make, trial_factory: Callable[..., Trial], state: TrialState
) -> None:
    history = (trial_factory(0, accuracy=1.0, latency_ms=1e-3, state=state, error="why"),)
    assert make(history=history).evaluate(1, INT8).state is TrialState.COMPLETE


def test_complete_trials_of_this_session_beat_later_ones(make: Make) -> None:
    bench = make()
    assert bench.evaluate(0, AS_IT_CAME).state is TrialState.COMPLETE
    bench.latency.factor = 2.0
    assert str(bench.evaluate(1, AS_IT_CAME).error).startswith("out of reach at its best: trial 0 beats")


def test_the_baseline_is_never_pruned(make: Make, trial_factory: Callable[..., Trial]) -> None:
    history = beaten_by(trial_factory, accuracy=1.0, latency_ms=1e-6)
    bound = Constraint(metric="latency_ms", bound=1e-6)
    trial = make(history=history, constraints=(bound,)).evaluate(2, INT8, "baseline")
    assert trial.state is TrialState.COMPLETE


def test_an_equal_candidate_is_not_out_of_reach(make: Make, net: ModelGraph, trial_factory: Any) -> None:
    history = (trial_factory(0, accuracy=1.0, latency_ms=0.98 * net.macs() / 1e4),)
    assert make(history=history).evaluate(1, AS_IT_CAME).state is TrialState.COMPLETE


def test_an_objective_that_was_not_measured_prunes_nobody(make: Make, trial_factory: Callable[..., Trial]) -> None:
    objectives = (*OBJECTIVES, Objective(metric="energy_mj"))
    bench = make(objectives=objectives, history=beaten_by(trial_factory, accuracy=1.0, latency_ms=1e-6))
    assert bench.evaluate(2, INT8).state is TrialState.COMPLETE


def test_a_broken_bound_prunes_before_healing(make: Make, net: ModelGraph) -> None:
    healing = TableHealing({})
    bound = Constraint(metric="size_bytes", bound=net.size_bytes() / 4)
    trial = make(healing, constraints=(bound,)).evaluate(0, PRUNED)
    assert trial.state is TrialState.PRUNED
    assert trial.error is not None
    assert trial.error.startswith("size_bytes ") and trial.error.endswith(f"breaks {bound}")
    assert healing.shares == []


def test_a_bound_missed_by_little_is_still_worth_knowing(make: Make, net: ModelGraph) -> None:
    latency = net.macs() / 1e4
    near, far = (Constraint(metric="latency_ms", bound=latency / share) for share in (1.2, 1.4))
    assert make(constraints=(near,)).evaluate(0, AS_IT_CAME).state is TrialState.COMPLETE
    assert make(constraints=(far,)).evaluate(0, AS_IT_CAME).state is TrialState.PRUNED


def test_where_nothing_fits_a_nearer_miss_is_scored(
    make: Make, net: ModelGraph, trial_factory: Callable[..., Trial]
) -> None:
    latency = net.macs() / 1e4
    bound = (Constraint(metric="latency_ms", bound=latency / 5),)
    slow, quick = (
        trial_factory(n, accuracy=accuracy, latency_ms=share * latency)
        for n, (accuracy, share) in enumerate([(1.0, 2.0), (0.1, 0.9)])
    )
    assert make(history=(slow,), constraints=bound).evaluate(2, AS_IT_CAME).state is TrialState.COMPLETE
    farther = make(history=(slow, quick), constraints=bound).evaluate(2, AS_IT_CAME)
    assert str(farther.error).endswith(f"breaks {bound[0]}")


def test_the_reason_says_that_a_latency_is_estimated(
    make: Make, net: ModelGraph, trial_factory: Callable[..., Trial]
) -> None:
    clock = ByMacs(Provenance.ESTIMATED)
    history = beaten_by(trial_factory, accuracy=1.0, latency_ms=1e-3)
    bound = (Constraint(metric="latency_ms", bound=1e-6),)
    reasons = (
        make(history=history, latency=clock).evaluate(2, AS_IT_CAME).error,
        make(constraints=bound, latency=clock).evaluate(0, AS_IT_CAME).error,
    )
    assert ["estimated latency_ms" in str(reason) for reason in reasons] == [True, True], reasons


def test_a_measured_latency_gets_the_benefit_of_its_interval_and_an_estimate_none(make: Make, net: ModelGraph) -> None:
    # 1.26 times the bound; the interval's lower end is 1.235 times.
    bound = (Constraint(metric="latency_ms", bound=net.macs() / 1e4 / 1.26),)
    states = [
        make(constraints=bound, latency=ByMacs(provenance)).evaluate(0, AS_IT_CAME).state
        for provenance in (Provenance.MEASURED, Provenance.ESTIMATED)
    ]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED]


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_what_breaks_a_bound_on_another_metric_keeps_nobody_off_the_front(
    size: float, make: Make, net: ModelGraph, trial_factory: Callable[..., Trial]
) -> None:
    whole = net.size_bytes()
    history = (trial_factory(0, accuracy=1.0, latency_ms=1e-6, size_bytes=size * whole),)
    bench = make(history=history, constraints=(Constraint(metric="size_bytes", bound=1.1 * whole),))
    assert bench.evaluate(1, AS_IT_CAME).state is (TrialState.COMPLETE if size > 1 else TrialState.PRUNED)


def test_a_bound_on_quality_is_not_judged_early(make: Make) -> None:
    bound = (Constraint(metric="accuracy", bound=0.999),)
    bench = make(TableHealing({0.25: destroyed, 1.0: destroyed}), constraints=bound)
    assert bench.evaluate(0, PRUNED).state is TrialState.COMPLETE


@pytest.mark.parametrize("stage", range(9))
def test_an_interrupt_between_stages_leaves_no_trial(make: Make, stage: int) -> None:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(len(asked))
        return len(asked) > stage

    bench = make(TableHealing({0.25: unchanged, 1.0: unchanged}), should_stop=should_stop)
    with pytest.raises(Interrupted):
        bench.evaluate(0, PRUNED)
    assert len(bench.stages) == stage
    assert bench.kept == []


def test_an_interrupt_while_healing_is_passed_on(make: Make) -> None:
    def stops(graph: ModelGraph) -> ModelGraph:
        raise Interrupted("healing stopped at step 5 of 8")

    with pytest.raises(Interrupted, match="step 5"):
        make(TableHealing({0.25: stops})).evaluate(0, PRUNED)


def test_data_without_labels_score_fidelity(make: Make, net: ModelGraph) -> None:
    quality = QualityEvaluator(RUNTIME, ArrayDataset([images()]), RUNTIME.build(net))
    objectives = (Objective(metric="fidelity"), Objective(metric="latency_ms"))
    trial = make(quality=quality, objectives=objectives).evaluate(0, AS_IT_CAME)
    assert (trial.state, trial.value("fidelity")) == (TrialState.COMPLETE, 1.0)
    assert "accuracy" not in trial.measurements


def test_what_training_may_still_save_goes_on(make: Make) -> None:
    def trains(plan: CompressionPlan, gap: float) -> float:
        return 0.01 * gap

    for hope, state in ((trains, TrialState.COMPLETE), (lambda plan, gap: gap, TrialState.PRUNED)):
        healing = TableHealing({1.0: destroyed})
        bench = make(healing, hope=hope)
        bench.evaluate(0, AS_IT_CAME, "baseline")
        plan = CompressionPlan(prune={"a": 0.25}, distillation=DistillationPlan(steps=0))
        better = CompressionPlan(prune={"a": 0.5})
        cheaper = make(TableHealing({1.0: unchanged}), hope=hope).evaluate(1, better)
        bench.evaluator._complete.append(cheaper)
        assert bench.evaluate(2, plan).state is state
