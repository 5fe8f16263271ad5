"""What pruning left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autocompress.compress.apply import Compressor
from autocompress.core.plan import CompressionPlan
from autocompress.graph.executor import GraphModule
from autocompress.graph.model_graph import ModelGraph
from autocompress.loading import load_graph
from autocompress.recover.features import with_outputs
from autocompress.recover.untouched import untouched_values


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return load_graph("demo")


def _outputs(graph: ModelGraph) -> list[str]:
    return [str(node.outputs[0].name) for node in graph.model.graph]


def test_all_of_a_copy_is_untouched(graph: ModelGraph) -> None:
    assert untouched_values(graph.clone(), graph) == {*_outputs(graph), *graph.input_names}


@pytest.mark.parametrize(
    "plan", [CompressionPlan(skip=("layer2.1",)), CompressionPlan(prune={"layer2.1.conv1": 0.5})], ids=["skip", "prune"]
)
def test_what_lies_before_a_change_is_untouched_and_nothing_behind_it(graph: ModelGraph, plan: CompressionPlan) -> None:
    pruned = Compressor(graph).pruned(plan)
    found = untouched_values(pruned, graph)
    order = _outputs(pruned)
    before = [name in found for name in order]
    assert any(before)
    assert before == sorted(before, reverse=True)
    # Asked of the numbers too: what is said to be the same is the same.
    last = order[before.index(False) - 1]
    x = np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32)
    assert pruned.output_names == graph.output_names
    mine, its = (_value(model, last, x) for model in (pruned, graph))
    np.testing.assert_array_equal(mine, its)


def test_another_weight_touches_all_that_reads_it(graph: ModelGraph) -> None:
    name = graph.layers()[0].weight
    changed = graph.with_initializers({name: graph.initializers[name] * 1.5})
    assert untouched_values(changed, graph) == set(graph.input_names)


def _value(graph: ModelGraph, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        found = GraphModule(with_outputs(graph, [name])).eval()(torch.from_numpy(x))
    return np.asarray(found[-1])
