"""Low rank in a plan: which layers are taken apart, and what becomes of the rest of the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.compress.apply import Compressor, compress
from autocompress.compress.low_rank import low_rank
from autocompress.compress.sparsify import sparsity_masks
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.profiles import local_target

Run = Callable[[ModelGraph, NDArray[Any]], NDArray[Any]]
HALF = RankPlan(ratio=0.25)


def plan_of(rank: RankPlan = HALF, name: str = "*", **fields: Any) -> CompressionPlan:
    return CompressionPlan(layers={name: LayerPlan(rank=rank, **fields)})


def thin(rng: np.random.Generator, rank: int, *shape: int) -> NDArray[np.float32]:
    """A weight whose matrix of outputs has a rank."""
    left, right = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, int(np.prod(shape[1:]))))
    return (left @ right / np.sqrt(right.shape[1])).reshape(shape).astype(np.float32)


@pytest.fixture
def nets(net: Any) -> ModelGraph:
    """conv a (3 x 3) - norm - relu - conv b (1 x 1) - depthwise d - pool - gemm fc; a, b, fc have ranks 4, 3, 2."""
    made = net(16, 10, 10)
    rng = np.random.default_rng(3)
    weight = made.constant("a.weight", thin(rng, 4, 16, 16, 3, 3))
    made.node("Conv", ["x", weight], "a", pads=[1, 1, 1, 1])
    made.node("Relu", [made.batch_norm("a", "norm", 16)], "a_relu")
    made.node("Conv", ["a_relu", made.constant("b.weight", thin(rng, 3, 16, 16, 1, 1))], "b")
    made.node("Conv", ["b", made.constant("d.weight", made.normal(16, 1, 3, 3))], "d", group=16, pads=[1, 1, 1, 1])
    made.node("Flatten", [made.node("GlobalAveragePool", ["d"], "pool")], "flat")
    fc, bias = made.constant("fc.weight", thin(rng, 2, 10, 16)), made.constant("fc.bias", made.normal(10))
    made.node("Gemm", ["flat", fc, bias], "y", transB=1)
    graph: ModelGraph = made.graph("y")
    return graph


@pytest.fixture
def x() -> NDArray[np.float32]:
    return np.random.default_rng(8).normal(size=(24, 16, 10, 10)).astype(np.float32)


def test_a_plan_without_ranks_gives_the_graph_itself(nets: ModelGraph) -> None:
    made, found = low_rank(nets, CompressionPlan(layers={"*": LayerPlan(weight_bits=8)}))
    assert made is nets
    assert found == {}


def test_weights_of_low_rank_lose_nothing_at_full_energy(nets: ModelGraph, x: Any, run_graph: Run) -> None:
    made, found = low_rank(nets, plan_of(RankPlan(energy=1.0 - 1e-9)))
    assert {name: item.method for name, item in found.items() if item.factors} == {
        "a": "tucker2",
        "b": "svd",
        "fc": "svd",
    }
    assert [found[name].ranks for name in ("a", "b", "fc")] == [(16, 4), (3,), (2,)]
    assert made.macs() < nets.macs()
    wanted = run_graph(nets, x)
    np.testing.assert_allclose(run_graph(made, x), wanted, atol=1e-4 * np.abs(wanted).max())


def test_it_says_what_the_factors_are(nets: ModelGraph) -> None:
    made, found = low_rank(nets, plan_of(RankPlan(method="tucker2", ratio=0.25), "a"))
    item = found["a"]
    assert item.weight_shape == (16, 16, 3, 3)
    assert item.factors == {"a.0": (4, 16, 1, 1), "a.1": (4, 4, 3, 3), "a.2": (16, 4, 1, 1)}
    assert 0 < item.error < 1
    assert item.macs == (100 * 16 * 16 * 9, 100 * (16 * 4 + 4 * 4 * 9 + 4 * 16))
    layers = {layer.name: layer for layer in made.layers()}
    assert sum(layers[name].macs for name in item.factors) == item.macs[1]
    assert {name: layers[name].weight_shape for name in item.factors} == item.factors


@pytest.mark.parametrize("method", ["spatial", "tucker2"])
def test_counted_operations_are_those_of_the_graph_with_strides(method: str, net: Any) -> None:
    made = net(16, 11, 13)
    weight = made.constant("a.weight", made.normal(16, 16, 3, 3))
    made.node("Conv", ["x", weight], "y", strides=[2, 3], pads=[1, 1, 1, 1])
    graph = made.graph("y")
    found, ranks = low_rank(graph, plan_of(RankPlan(method=method, ratio=0.125)))
    assert ranks["a"].macs == (graph.macs(), found.macs())


def test_a_layer_that_would_not_get_cheaper_stays_whole_and_says_so(nets: ModelGraph) -> None:
    made, found = low_rank(nets, plan_of(RankPlan(ratio=1.0)))
    assert made is nets
    assert found["fc"].factors == {}
    assert found["fc"].reason == "its factors would take 260 multiply-accumulates, and it takes 160"
    assert "grouped convolution" in str(found["d"].reason)


def test_auto_takes_the_cheaper_of_two_methods(nets: ModelGraph) -> None:
    by_method = {
        method: low_rank(nets, plan_of(RankPlan(method=method, energy=0.9), "a"))[1]["a"]
        for method in ("auto", "spatial", "tucker2")
    }
    cheaper = min(("spatial", "tucker2"), key=lambda method: (by_method[method].macs or (0, 0))[1])
    assert by_method["auto"] == by_method[cheaper]


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("d", "auto", "it is a grouped convolution"),
        ("a", "svd", "it has a kernel of 3 x 3, which takes 'spatial' or 'tucker2', not 'svd'"),
        ("b", "tucker2", "it has a kernel of 1 x 1, which takes 'svd', not 'tucker2'"),
        ("fc", "spatial", "it has no kernel, which takes 'svd', not 'spatial'"),
    ],
)
def test_a_named_layer_that_cannot_be_taken_apart_is_refused(
    name: str, method: str, reason: str, nets: ModelGraph
) -> None:
    with pytest.raises(PlanError, match=f"Layer '{name}' cannot be of low rank: {reason}"):
        low_rank(nets, plan_of(RankPlan(method=method, ratio=0.1), name))


def test_a_shared_weight_stays_whole(net: Any) -> None:
    made = net(8)
    weight = made.constant("a.weight", made.normal(8, 8))
    made.node("MatMul", [made.node("MatMul", ["x", weight], "h"), weight], "y")
    graph = made.graph("y")
    graph_again, found = low_rank(graph, plan_of())
    assert graph_again is graph
    assert {name: item.reason for name, item in found.items()} == dict.fromkeys(
        ("a", "a#2"), "its weight has other readers"
    )


def test_a_taken_name_keeps_a_layer_whole(net: Any) -> None:
    made = net(16)
    made.node("MatMul", ["x", made.constant("a.weight", made.normal(16, 16))], "h")
    made.node("MatMul", ["h", made.constant("a.0.weight", made.normal(16, 16))], "y")
    _, found = low_rank(made.graph("y"), plan_of())
    assert "would be called 'a.0'" in str(found["a"].reason)
    assert set(found["a.0"].factors) == {"a.0.0", "a.0.1"}


def test_nothing_of_the_graph_changes(nets: ModelGraph) -> None:
    before = nets.to_bytes()
    low_rank(nets, plan_of())
    assert nets.to_bytes() == before


def test_the_compressor_remembers_what_became_of_layers(nets: ModelGraph) -> None:
    compressor = Compressor(nets)
    graph = compressor.pruned(plan_of())
    assert compressor.pruned(plan_of()) is graph
    assert compressor.ranks(plan_of())["a"].factors
    assert compressor.ranks(CompressionPlan()) == {}
    assert compressor.pruned(plan_of(RankPlan(ratio=0.125))) is not graph


def test_factors_are_quantized_as_their_layer(nets: ModelGraph, x: Any) -> None:
    plan = CompressionPlan(
        layers={
            "*": LayerPlan(rank=HALF),
            "a": LayerPlan(weight_bits=8, rank=HALF),
            "fc": LayerPlan(weight_bits=8),
        }
    )
    packed = {name for name, array in compress(nets, plan).initializers.items() if array.dtype == np.int8}
    assert packed == {f"{name}.weight_q8" for name in ("a.0", "a.1", "a.2", "fc")}


def test_integer_compute_of_factors(nets: ModelGraph, x: Any, run_graph: Run) -> None:
    from autocompress.evaluate.datasets import ArrayDataset

    plan = plan_of(RankPlan(energy=0.999999), weight_bits=8, activation_bits=8)
    saturates = local_target().runtime().reduce_range
    compressor = Compressor(nets, dataset=ArrayDataset([x]), reduce_range=saturates)
    made = compressor.finish(compressor.pruned(plan), plan)
    draft = compressor.finish(compressor.pruned(plan), plan, draft=True)
    assert draft.size_bytes() == made.size_bytes()
    assert {"a.0.weight_q8", "b.1.weight_q8", "fc.0.weight_q8", "d.weight_q8"} <= set(made.initializers)
    wanted = run_graph(nets, x)
    error = np.linalg.norm(run_graph(made, x) - wanted) / np.linalg.norm(wanted)
    assert error < 0.05


def test_batch_normalization_is_folded_into_the_last_factor(nets: ModelGraph, x: Any, run_graph: Run) -> None:
    made = compress(nets, plan_of(RankPlan(energy=1.0 - 1e-9)))
    assert "BatchNormalization" not in {node.op_type for node in made.model.graph}
    wanted = run_graph(nets, x)
    np.testing.assert_allclose(run_graph(made, x), wanted, atol=1e-4 * np.abs(wanted).max())


def test_pruning_comes_first(nets: ModelGraph) -> None:
    plan = plan_of().replace(prune={"a": 0.5})
    compressor = Compressor(nets)
    compressor.pruned(plan)
    assert compressor.ranks(plan)["a"].weight_shape == (8, 16, 3, 3)
    assert compressor.ranks(plan)["b"].weight_shape == (16, 8, 1, 1)


def test_factors_are_made_sparse_as_their_layer(nets: ModelGraph) -> None:
    plan = CompressionPlan(layers={"a": LayerPlan(rank=HALF, sparsity=SparsityPlan(ratio=0.5))})
    made = Compressor(nets).pruned(plan)
    assert set(sparsity_masks(made, plan)) == {"a.0.weight", "a.1.weight", "a.2.weight"}
    assert np.mean(made.initializers["a.1.weight"] == 0) == pytest.approx(0.5)


def test_the_same_plan_gives_the_same_bytes(nets: ModelGraph) -> None:
    assert compress(nets, plan_of()).to_bytes() == compress(nets, plan_of()).to_bytes()
