"""Ranks and sparsities as choices of a search."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from autocompress.compress.apply import compress
from autocompress.compress.legal import legality
from autocompress.compress.low_rank import low_rank, possible_ranks
from autocompress.core.errors import PlanError
from autocompress.core.objective import Objective
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.space import SearchSpace
from autocompress.core.target import RuntimeSpec
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.evaluate.sensitivity import single_change
from autocompress.graph.importing import load_model
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import load_target
from autocompress.search.recipes import recipes
from autocompress.search.space_builder import build_space, load_template
from autocompress.zoo.resnet import resnet20

VNNI = load_target("x86-avx512-vnni").runtime()
SLOW = load_target("raspberry-pi-4b").runtime()
QUICK = ("accuracy", "latency_ms")
SMALL = ("accuracy", "size_bytes")


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    import torch

    torch.manual_seed(0)
    return load_model(resnet20().eval(), (np.zeros((2, 3, 32, 32), np.float32),))


def space(graph: ModelGraph, template: str, metrics: tuple[str, ...], spec: RuntimeSpec = VNNI) -> SearchSpace:
    objectives = [Objective(metric=metric) for metric in metrics]
    return build_space(graph, spec, load_template(template), objectives=objectives, legal=legality(graph))


def kinds(found: SearchSpace) -> set[str]:
    return {choice.kind for choice in found.choices}


def test_the_default_template_offers_neither(graph: ModelGraph) -> None:
    assert not kinds(space(graph, "default", (*QUICK, "size_bytes"))) & {"rank", "sparsity"}


def test_a_rank_is_offered_where_it_saves_more_than_its_launches(graph: ModelGraph) -> None:
    instant = replace(SLOW, launch_overhead_us=0.0)
    slow = replace(SLOW, launch_overhead_us=1e6)
    assert "rank" in kinds(space(graph, "thorough", QUICK, instant))
    found = space(graph, "thorough", QUICK, slow)
    assert "rank" not in kinds(found)
    assert any(r.reason == "its factors save less arithmetic than their launches cost" for r in found.refused)


def test_a_rank_that_takes_more_work_is_refused_once(graph: ModelGraph) -> None:
    template = load_template("size").model_copy(update={"rank": ("ratio 1",)})
    refused = [r for r in build_space(graph, VNNI, template).refused if r.option == "rank ratio 1"]
    assert "would take no fewer multiply-accumulates" in refused[0].reason
    assert len(refused) < 4


def test_what_is_promised_of_a_rank_is_what_it_does(graph: ModelGraph) -> None:
    rank = RankPlan(ratio=0.25)
    _, made = low_rank(graph, CompressionPlan(layers={"*": LayerPlan(rank=rank)}))
    promised = possible_ranks(graph, rank)
    assert {name for name, found in promised.items() if found.reason is None} == {
        n for n, f in made.items() if f.factors
    }
    assert {name: found.macs for name, found in promised.items()} == {name: found.macs for name, found in made.items()}


def test_sparse_storage_is_offered_where_size_counts(graph: ModelGraph) -> None:
    assert "sparsity" in kinds(space(graph, "size", SMALL))
    assert "sparsity" not in kinds(space(graph, "thorough", QUICK))


def test_two_to_four_needs_kernels_for_it(graph: ModelGraph) -> None:
    refusals = {r.option: r.reason for r in space(graph, "thorough", QUICK).refused}
    assert "has no kernels that skip the zeros of 2:4" in refusals["2:4"]
    assert "sparsity" in kinds(space(graph, "thorough", QUICK, replace(VNNI, two_to_four=True)))


@pytest.mark.parametrize(
    ("target", "offered"), [("nvidia-a10", True), ("jetson-orin-nano", True), ("nvidia-t4", False)]
)
def test_two_to_four_is_offered_on_hardware_that_has_it(graph: ModelGraph, target: str, offered: bool) -> None:
    found = space(graph, "thorough", QUICK, load_target(target).runtime("tensorrt"))
    choices = [choice for choice in found.choices if choice.kind == "sparsity"]
    assert bool(choices) is offered
    assert all("2:4" in choice.options for choice in choices)
    if offered:
        assignment = {c.name: "2:4" if c in choices else c.options[0] for c in found.choices}
        assert {plan.label for plan in found.plan(assignment).sparsities.values()} == {"2:4"}


def test_formats_are_offered_where_size_counts(graph: ModelGraph) -> None:
    options = {option for choice in space(graph, "size", SMALL).choices for option in choice.options}
    assert {"w6a8", "w3a8", "w4a32-block32", "w4a32-codebook"} <= options
    options = {option for choice in space(graph, "thorough", QUICK).choices for option in choice.options}
    assert not {"w6a8", "w3a8"} & options


@pytest.mark.parametrize("seed", range(3))
def test_every_assignment_makes_an_artifact(graph: ModelGraph, seed: int) -> None:
    found, rng = space(graph, "size", SMALL), np.random.default_rng(seed)
    plan = found.plan({c.name: c.options[rng.integers(len(c.options))] for c in found.choices})
    plan = plan.replace(importance="l1")
    assert plan.ranks
    data = ArrayDataset([np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)])
    assert compress(graph, plan, dataset=data).size_bytes() < graph.size_bytes()


def test_sparse_storage_of_integers_is_left_out_of_the_plan(graph: ModelGraph) -> None:
    found = space(graph, "size", SMALL)
    assignment = {
        c.name: "int8" if c.kind == "precision" and "int8" in c.options else c.options[-1] for c in found.choices
    }
    assert not any(layer.sparsity for layer in found.plan(assignment).layers.values() if layer.weight_bits == 8)


def test_each_rank_and_sparsity_is_among_the_first_candidates(graph: ModelGraph) -> None:
    nothing = SimpleNamespace(trials=tuple)
    size = Objective(metric="size_bytes")
    labels = [c.label for c in recipes(space(graph, "size", SMALL), graph, store=nothing, objective=size)]
    assert {"rank ratio 0.5 + int8", "sparsity unstructured 0.9 sparse + fp32"} <= set(labels)


def test_single_changes_are_those_of_the_choice(graph: ModelGraph) -> None:
    for choice in space(graph, "size", SMALL).choices:
        if choice.kind in ("rank", "sparsity"):
            assert single_change(choice, choice.options[0]) == CompressionPlan()
            changed = single_change(choice, choice.options[1]).layers[choice.subject]
            assert (changed.rank or changed.sparsity) is not None


@pytest.mark.parametrize("label", ["ratio 0.5", "energy 0.9", "ratio 0.25 tucker2"])
def test_rank_labels_read_back(label: str) -> None:
    assert RankPlan.from_label(label).label == label


def test_a_wrong_label_shows_right_ones() -> None:
    with pytest.raises(PlanError, match=r"'ratio 0.5'.*but got 'half'"):
        RankPlan.from_label("half")
