"""Bytes of an artifact that was not built."""

import pytest

from autocompress.core.errors import PlanError
from autocompress.core.measurement import Provenance
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.cost.size import SizeModel
from autocompress.graph.model_graph import ModelGraph

INT8 = LayerPlan(weight_bits=8, activation_bits=8)


def size(graph: ModelGraph, plan: CompressionPlan) -> float:
    return SizeModel().estimate(graph, plan).value


def test_an_empty_plan_is_the_file_as_it_is(graph: ModelGraph) -> None:
    assert size(graph, CompressionPlan()) == graph.size_bytes()


def test_pruning_removes_the_bytes_of_every_coupled_axis(graph: ModelGraph) -> None:
    removed = 8 * 3 * 9 + 8 + 32 * 8 * 9
    pruned = size(graph, CompressionPlan(prune={"conv1": 0.5}))
    assert graph.size_bytes() - pruned == pytest.approx(4 * removed)


@pytest.mark.parametrize(("bits", "activations"), [(8, 32), (4, 32), (2, 32), (8, 8), (4, 8)])
def test_fewer_bits_make_a_smaller_file(graph: ModelGraph, bits: int, activations: int) -> None:
    plan = CompressionPlan(layers={"conv2": LayerPlan(weight_bits=bits, activation_bits=activations)})
    saved = graph.size_bytes() - size(graph, plan)
    assert 0 < saved < 4 * 32 * 16 * 9 * (1 - bits / 32)


def test_the_estimate_is_labelled(graph: ModelGraph) -> None:
    found = SizeModel().estimate(graph, CompressionPlan(layers={"*": INT8}))
    assert found.provenance is Provenance.ESTIMATED
    assert found.metric == "size_bytes"


def test_an_unknown_group_is_an_error(graph: ModelGraph) -> None:
    with pytest.raises(PlanError, match="unknown group 'conv9'"):
        size(graph, CompressionPlan(prune={"conv9": 0.5}))
