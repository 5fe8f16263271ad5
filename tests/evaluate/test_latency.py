"""Two ways to know a latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.core.measurement import Interval, Measurement, PairedTiming, Provenance, TimingPolicy
from autocompress.core.plan import CompressionPlan, DistillationPlan
from autocompress.evaluate.latency import CONFIRM, SCREEN, EstimatedLatency, MeasuredLatency
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.normalizing import normalize
from autocompress.measure.runtimes.onnxruntime import OnnxRuntime

PLAN = CompressionPlan(prune={"a": 0.5})


class TableRuntime:
    """Builds anything into itself and reads its ratio to the baseline from a table."""

    name = "table"

    def __init__(self, ratios: Mapping[str, float]) -> None:
        self._ratios = ratios
        self.asked: list[tuple[Any, Any, TimingPolicy]] = []

    def describe(self) -> Mapping[str, Any]:
        return {"name": "table", "version": "2", "fingerprint": "paper #1", "threads": 1, "spinning": False}

    def build(self, graph: Any) -> Any:
        return graph

    def time(self, candidate: Any, reference: Any, policy: TimingPolicy) -> PairedTiming:
        self.asked.append((candidate, reference, policy))
        ratio = self._ratios[candidate]
        return PairedTiming(
            candidate_ms=(9 * ratio, 9 * ratio),
            reference_ms=(9.0, 9.0),
            kept=(True, True),
            ratio=ratio,
            ratio_interval=Interval(low=0.9 * ratio, high=1.1 * ratio),
            details={"stopped": "interval"},
        )


class InTurn(dict[str, float]):
    """A table with the next figure for whoever asks."""

    def __init__(self, figures: Sequence[float]) -> None:
        super().__init__()
        self.left = list(figures)

    def __missing__(self, key: str) -> float:
        return self.left.pop(0)


class TableModel:
    """A cost model with one answer; remembers what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, CompressionPlan]] = []

    def estimate(self, graph: Any, plan: CompressionPlan) -> Measurement:
        self.asked.append((graph, plan))
        return Measurement(metric="latency_ms", value=3.0, unit="ms", provenance=Provenance.ESTIMATED)


@pytest.fixture
def table() -> TableRuntime:
    return TableRuntime({"half": 0.5, "third": 1 / 3})


@pytest.fixture
def measured(table: TableRuntime) -> MeasuredLatency:
    return MeasuredLatency(runtime=table, baseline="whole", reference_ms=6.0, target="local")  # type: ignore[arg-type]


def test_latency_is_the_ratio_times_the_runs_own_baseline(measured: MeasuredLatency) -> None:
    found = measured.screen("half", PLAN)  # type: ignore[arg-type]
    assert (found.metric, found.value, found.unit, found.provenance) == ("latency_ms", 3.0, "ms", Provenance.MEASURED)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((2.7, 3.3))
    assert found.samples == (4.5, 4.5)


def test_it_carries_runtime_target_and_fingerprint(measured: MeasuredLatency) -> None:
    found = measured.screen("half", PLAN)  # type: ignore[arg-type]
    assert (found.runtime, found.target, found.fingerprint) == ("table 2", "local", "paper #1")
    assert (found.details["threads"], found.details["spinning"]) == (1, False)


def test_the_quick_look_and_the_careful_one_have_policies_of_their_own(
    measured: MeasuredLatency, table: TableRuntime
) -> None:
    screened = measured.screen("half", PLAN)  # type: ignore[arg-type]
    confirmed = measured.confirm("third", PLAN, screened)  # type: ignore[arg-type]
    assert table.asked == [("half", "whole", SCREEN), ("third", "whole", CONFIRM)]
    assert confirmed.value == pytest.approx(2.0)
    assert CONFIRM.half_width < SCREEN.half_width and CONFIRM.max_seconds > SCREEN.max_seconds


def test_policies_can_be_given(table: TableRuntime) -> None:
    quick, careful = TimingPolicy(max_seconds=0.1), TimingPolicy(max_seconds=0.2)
    latency = MeasuredLatency(
        runtime=table,
        baseline="whole",  # type: ignore[arg-type]
        reference_ms=1.0,
        target="local",
        screen=quick,
        confirm=careful,
    )
    latency.confirm("half", PLAN, latency.screen("half", PLAN))  # type: ignore[arg-type]
    assert [policy for _, _, policy in table.asked] == [quick, careful]


def test_a_real_graph_is_timed_against_a_real_baseline() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((8, 4), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    linear = ModelGraph(normalize(ir.from_proto(model)))
    runtime = OnnxRuntime()
    policy = TimingPolicy(block_ms=1.0, half_width=0.2, max_seconds=0.2, warmup_seconds=0.02)
    latency = MeasuredLatency(
        runtime=runtime, baseline=runtime.build(linear), reference_ms=5.0, target="local", screen=policy
    )
    found = latency.screen(linear, CompressionPlan())
    # Equal models on a machine that may be busy.
    assert 2.5 < found.value < 10.0
    assert len(found.samples) == len(found.reference_samples)
    assert found.runtime.startswith("onnxruntime")


def test_an_estimate_is_made_from_the_uncompressed_graph_and_the_plan() -> None:
    model = TableModel()
    latency = EstimatedLatency(model=model, compressor=SimpleNamespace(graph="whole"))  # type: ignore[arg-type]
    found = latency.screen("draft", PLAN)  # type: ignore[arg-type]
    assert model.asked == [("whole", PLAN)]
    assert found.provenance is Provenance.ESTIMATED


def test_healing_does_not_change_an_estimate() -> None:
    model = TableModel()
    latency = EstimatedLatency(model=model, compressor=SimpleNamespace(graph="whole"))  # type: ignore[arg-type]
    screened = latency.screen("draft", PLAN)  # type: ignore[arg-type]
    assert latency.confirm("final", PLAN, screened) is screened  # type: ignore[arg-type]
    assert len(model.asked) == 1


def test_one_quick_look_serves_every_length_of_healing_but_each_artifact_is_timed_itself() -> None:
    runtime = TableRuntime({"draft": 0.5, "short": 0.6, "long": 0.7})
    scorer = MeasuredLatency(runtime=runtime, baseline="baseline", reference_ms=10.0, target="t")  # type: ignore[arg-type]
    longer = PLAN.replace(distillation=DistillationPlan(steps=40))
    first = scorer.screen("draft", PLAN)  # type: ignore[arg-type]
    assert scorer.screen("draft", longer) is first  # type: ignore[arg-type]
    careful = scorer.confirm("long", longer, first)  # type: ignore[arg-type]
    quick = scorer.confirm("short", PLAN, first, decides=False)  # type: ignore[arg-type]
    assert [(asked[0], asked[2]) for asked in runtime.asked] == [
        ("draft", SCREEN),
        ("long", CONFIRM),
        ("short", SCREEN),
        ("short", SCREEN),
    ]
    assert (careful.value, quick.value) == (pytest.approx(7.0), pytest.approx(6.0))


@pytest.mark.parametrize(
    ("looks", "value"), [((0.5, 0.51), 5.1), ((0.51, 0.5), 5.1), ((0.3, 0.5, 0.51), 5.0), ((0.5, 0.3, 0.45), 4.5)]
)
def test_two_short_looks_must_agree_or_the_median_of_three_counts(looks: tuple[float, ...], value: float) -> None:
    """What is trained next is picked by them, and the lowest of many is among the luckiest."""
    ratios = InTurn(looks)
    runtime = TableRuntime(ratios)
    scorer = MeasuredLatency(runtime=runtime, baseline="baseline", reference_ms=10.0, target="t")  # type: ignore[arg-type]
    screened = scorer.screen("draft", PLAN)  # type: ignore[arg-type]
    found = scorer.confirm("final", PLAN, screened, decides=False)  # type: ignore[arg-type]
    assert found.value == pytest.approx(value)
    assert sorted([found.value, *found.details["other_ms"]]) == pytest.approx(sorted(10 * look for look in looks))
    assert not ratios.left


def _scorer(ratios: dict[str, float]) -> tuple[MeasuredLatency, TableRuntime]:
    runtime = TableRuntime(ratios)
    scorer = MeasuredLatency(runtime=runtime, baseline="baseline", reference_ms=10.0, target="t")  # type: ignore[arg-type]
    return scorer, runtime


def test_a_plan_has_one_careful_figure_however_long_it_is_trained() -> None:
    scorer, runtime = _scorer({"draft": 0.5, "first": 0.5, "trained": 0.51, "other": 0.51})
    longer = PLAN.replace(distillation=DistillationPlan(steps=40))
    screened = scorer.screen("draft", PLAN)  # type: ignore[arg-type]
    first = scorer.confirm("first", PLAN, screened)  # type: ignore[arg-type]
    trained = scorer.confirm("trained", longer, screened)  # type: ignore[arg-type]
    other = scorer.confirm("other", CompressionPlan(prune={"a": 0.25}), screened)  # type: ignore[arg-type]
    assert [(name, policy) for name, _, policy in runtime.asked[1:]] == [
        ("first", CONFIRM),
        ("trained", SCREEN),
        ("other", CONFIRM),
    ]
    assert (first.value, trained.value, other.value) == (first.value, first.value, pytest.approx(5.1))
    assert trained.details["look_ms"] == pytest.approx(5.1)


@pytest.mark.parametrize(("ratio", "value"), [(0.6, 5.0), (0.4, 4.0)])
def test_where_a_look_disagrees_it_is_timed_as_carefully_and_the_lower_counts(ratio: float, value: float) -> None:
    scorer, runtime = _scorer({"draft": 0.5, "first": 0.5, "trained": ratio, "short": 0.9})
    longer = PLAN.replace(distillation=DistillationPlan(steps=40))
    screened = scorer.screen("draft", PLAN)  # type: ignore[arg-type]
    scorer.confirm("short", PLAN, screened, decides=False)  # type: ignore[arg-type]
    scorer.confirm("first", PLAN, screened)  # type: ignore[arg-type]
    found = scorer.confirm("trained", longer, screened)  # type: ignore[arg-type]
    assert [name for name, *_ in runtime.asked] == ["draft", "short", "short", "first", "trained", "trained"]
    assert found.value == pytest.approx(value)
    assert found.details["other_ms"] == pytest.approx([max(10 * ratio, 5.0)])


def test_a_figure_that_was_too_low_gives_way_to_two_that_agree() -> None:
    scorer, _ = _scorer({"draft": 0.5, "first": 0.4, "second": 0.5, "third": 0.51})
    screened = scorer.screen("draft", PLAN)  # type: ignore[arg-type]
    found = [scorer.confirm(name, PLAN, screened).value for name in ("first", "second", "third")]  # type: ignore[arg-type]
    assert found == pytest.approx([4.0, 4.0, 5.0])


def test_what_decides_waits_for_calm_and_looks_for_spells_of_it() -> None:
    assert CONFIRM.patience > 1.0
    assert CONFIRM.shortest_block_ms is not None
    assert CONFIRM.shortest_block_ms < CONFIRM.block_ms
