"""The first candidates of a search."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autocompress.core.layer import GroupMember, LayerInfo, PruneGroup, Role, SkipBlock
from autocompress.core.objective import Objective
from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.space import SearchSpace
from autocompress.core.trial import Candidate, Trial
from autocompress.cost.shares import MacModel
from autocompress.hardware.profiles import load_target
from autocompress.search.recipes import recipes
from autocompress.search.space_builder import build_space, load_template

INT8 = LayerPlan(weight_bits=8, activation_bits=8)
INT4 = LayerPlan(weight_bits=4, activation_bits=8)
VNNI = load_target("x86-avx512-vnni").runtime()
NANO = load_target("jetson-nano").runtime()


@dataclass(frozen=True)
class FakeGraph:
    """A chain of convolutions, each 64 channels wide, and a classifier."""

    names: tuple[str, ...] = ("a", "b", "c")

    def layers(self) -> tuple[LayerInfo, ...]:
        def info(name: str, op_type: str, macs: int) -> LayerInfo:
            return LayerInfo(
                name=name, op_type=op_type, weight=f"{name}.weight", weight_shape=(64, 64), out_shape=(1, 64),
                macs=macs, params=4096, prune_group=name, node=name,
            )  # fmt: skip

        return (*(info(n, "Conv", 1000) for n in self.names), info("fc", "Gemm", 10))

    def groups(self) -> tuple[PruneGroup, ...]:
        def member(name: str, axis: int, role: Role) -> GroupMember:
            return GroupMember(initializer=f"{name}.weight", axis=axis, indices=np.arange(64)[:, None], role=role)

        following = (*self.names[1:], "fc")
        return tuple(
            PruneGroup(name=n, channels=64, members=(member(n, 0, "out"), member(after, 1, "in")))
            for n, after in zip(self.names, following, strict=True)
        )

    def blocks(self) -> tuple[SkipBlock, ...]:
        return ()


GRAPH = FakeGraph()
LATENCY = Objective(metric="latency_ms")
SPACE = build_space(GRAPH, VNNI, load_template("default"))
SENSITIVITIES = {
    **{f"precision:{n}": {"fp32": 0.0, "int8": kl} for n, kl in (("a", 0.9), ("b", 0.1), ("c", 0.2), ("fc", 0.05))},
    **{
        f"ratio:{n}": {"0.0": 0.0, "0.25": kl / 4, "0.5": kl, "0.75": 4 * kl}
        for n, kl in (("a", 10.0), ("b", 1.0), ("c", 0.01))
    },
}


def labelled(candidates: list[Candidate]) -> dict[str, Candidate]:
    return {c.label: c for c in candidates}


def first(space: SearchSpace, graph: FakeGraph, *more: Any) -> list[Candidate]:
    """Before anything was measured."""
    return list(recipes(space, graph, *more, store=SimpleNamespace(trials=tuple), objective=LATENCY))


@pytest.mark.parametrize(("int8_ms", "precision"), [(0.6, "int8"), (0.98, "int8"), (1.6, "fp32")])
def test_what_is_pruned_is_in_the_precision_that_proved_fast(
    int8_ms: float, precision: str, trial_factory: Callable[..., Trial]
) -> None:
    labels: list[str] = []
    said: list[str] = []
    trials: list[Trial] = []
    store = SimpleNamespace(trials=lambda: trials)
    for candidate in recipes(SPACE, GRAPH, SENSITIVITIES, store=store, objective=LATENCY, on_message=said.append):
        labels.append(candidate.label)
        fast = candidate.label == "int8"
        trials.append(
            trial_factory(len(labels), latency_ms=int8_ms if fast else 1.0, plan=candidate.plan, source="baseline")
        )
    assert labels[:2] == ["fp32", "int8"]
    assert labels[2] == f"prune 50% + {precision}"
    assert f"least sensitive, 35% cheaper + {precision}" in labels
    assert len(set(labels)) == len(labels)
    assert said == ([] if precision == "int8" else ["The latency of fp32 is 0.62 of int8's: recipes prune in fp32."])


def test_the_uncompressed_model_comes_first_and_int8_next() -> None:
    found = first(SPACE, GRAPH)
    assert [(c.source, c.label) for c in found[:2]] == [("baseline", "fp32"), ("baseline", "int8")]
    assert found[0].plan == CompressionPlan()
    assert all(found[1].plan.layer(layer.name) == INT8 for layer in GRAPH.layers())


def test_no_plan_comes_twice() -> None:
    digests = [c.plan.digest for c in first(SPACE, GRAPH, SENSITIVITIES)]
    assert len(digests) == len(set(digests))


def test_pruning_comes_with_and_without_healing_in_int8_and_fp32() -> None:
    found = labelled(first(SPACE, GRAPH))
    healed, bare, fp32 = (found[f"prune 50% + {end}"] for end in ("int8", "int8, not healed", "fp32"))
    assert healed.plan.prune == bare.plan.prune == fp32.plan.prune == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert healed.plan.distillation == fp32.plan.distillation == DistillationPlan()
    assert bare.plan.distillation == DistillationPlan(reconstruct=False)
    assert bare.assignment == {}, "the space has no such choice"
    assert fp32.plan.layers == {}


def test_unhealed_pruning_is_tried_last() -> None:
    assert first(SPACE, GRAPH, SENSITIVITIES)[-1].label.endswith("not healed")


def test_the_four_bit_anchor_is_there_even_where_the_space_has_no_int4() -> None:
    anchor = labelled(first(SPACE, GRAPH))["int4"]
    assert all(anchor.plan.layer(layer.name) == INT4 for layer in GRAPH.layers())
    assert anchor.assignment == {}


def test_the_four_bit_anchor_is_inside_a_space_that_has_int4() -> None:
    space = build_space(GRAPH, VNNI, load_template("default"), objectives=[Objective(metric="size_bytes")])
    assert labelled(first(space, GRAPH))["int4"].assignment["precision:a"] == "int4"


def test_no_integer_is_proposed_where_the_runtime_refuses_it() -> None:
    found = first(build_space(GRAPH, NANO, load_template("default")), GRAPH)
    assert [c.label for c in found[:2]] == ["fp32", "fp16"]
    assert not any(plan.activation_bits == 8 for c in found for plan in c.plan.layers.values())
    assert "prune 50% + fp16" in labelled(found)


@pytest.mark.parametrize("space", [SPACE, build_space(GRAPH, NANO, load_template("default"))])
def test_assignments_are_complete_legal_and_mean_the_plan(space: SearchSpace) -> None:
    for candidate in first(space, GRAPH, SENSITIVITIES):
        if not candidate.assignment:
            continue
        assert set(candidate.assignment) == {c.name for c in space.choices}
        assert all(candidate.assignment[c.name] in c.options for c in space.choices)
        assert space.plan(candidate.assignment) == candidate.plan


def test_ranked_pruning_spares_the_sensitive_group() -> None:
    found = labelled(first(SPACE, GRAPH, SENSITIVITIES))
    plan = found["least sensitive, 35% cheaper + int8"].plan
    assert plan.prune["c"] == 0.75
    assert "a" not in plan.prune


@pytest.mark.parametrize("goal", [0.2, 0.35, 0.5, 0.65])
def test_ranked_pruning_reaches_its_savings(goal: float) -> None:
    candidate = labelled(first(SPACE, GRAPH, SENSITIVITIES))[f"least sensitive, {goal:.0%} cheaper + int8"]
    assert candidate.source == "sensitivity"
    assert MacModel(GRAPH.layers(), GRAPH.groups()).saved(candidate.plan.prune) >= goal


def test_the_most_sensitive_layers_stay_float() -> None:
    found = labelled(first(SPACE, GRAPH, SENSITIVITIES))
    one, two = found["int8, 1 most sensitive layer fp32"].plan, found["int8, 2 most sensitive layers fp32"].plan
    assert set(one.layers) == {"b", "c", "fc"}
    assert set(two.layers) == {"b", "fc"}


def test_sensitivities_that_are_missing_leave_the_uniform_recipes() -> None:
    assert [c.label for c in first(SPACE, GRAPH, {})] == [c.label for c in first(SPACE, GRAPH, None)]
    partial = {"ratio:a": {"0.0": 0.0}, "precision:a": {"fp32": 0.0}}
    assert not any(c.source == "sensitivity" for c in first(SPACE, GRAPH, partial))


def test_a_space_without_pruning_has_precision_recipes_only() -> None:
    space = build_space(GRAPH, VNNI, load_template("quantize"))
    assert [c.label for c in first(space, GRAPH)] == ["fp32", "int8", "int4"]
