"""The fewest Casts around operators of 16 bits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compress.islands import island

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def network(reads: Sequence[Sequence[int]], outputs: Sequence[int]) -> ir.Graph:
    """Operator ``i`` reads the values ``reads[i]``: 0 is the input, ``i + 1`` what operator ``i`` writes."""
    values = [ir.Value(name="x", type=FLOAT)]
    nodes = []
    for index, wanted in enumerate(reads):
        made = ir.node("Op", [values[place] for place in wanted], name=f"n{index}")
        made.outputs[0].name, made.outputs[0].type = f"v{index}", FLOAT
        values.append(made.outputs[0])
        nodes.append(made)
    return ir.Graph(values[:1], [values[place + 1] for place in outputs], nodes=nodes, opset_imports={"": 21})


def casts(graph: ir.Graph, inside: set[ir.Node]) -> int:
    """Values that a reader wants in another type, each counted once."""
    count = 0
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        low = value.producer() in inside
        readers = [use.node in inside for use in value.uses()] + [False] * value.is_graph_output()
        count += any(reader != low for reader in readers)
    return count


@st.composite
def cases(draw: st.DrawFn) -> tuple[ir.Graph, list[ir.Node], list[ir.Node]]:
    count = draw(st.integers(1, 8))
    reads = [draw(st.lists(st.integers(0, i), min_size=1, max_size=3)) for i in range(count)]
    outputs = draw(st.sets(st.integers(0, count - 1), min_size=1))
    graph = network(reads, sorted(outputs))
    kinds = draw(st.lists(st.sampled_from(["layer", "free", "free", "float"]), min_size=count, max_size=count))
    nodes = list(zip(graph, kinds, strict=True))
    return graph, [n for n, kind in nodes if kind == "layer"], [n for n, kind in nodes if kind == "free"]


@given(cases())
@settings(deadline=None, max_examples=200)
def test_no_choice_of_the_free_operators_has_fewer_casts(case: tuple[ir.Graph, list[ir.Node], list[ir.Node]]) -> None:
    graph, layers, free = case
    chosen = itertools.product([False, True], repeat=len(free))
    least = min(casts(graph, {*layers, *itertools.compress(free, wanted)}) for wanted in chosen)
    assert casts(graph, island(graph, layers, free)) == least


@given(cases())
@settings(deadline=None)
def test_layers_are_inside_and_what_is_not_free_is_not(case: tuple[ir.Graph, list[ir.Node], list[ir.Node]]) -> None:
    graph, layers, free = case
    assert set(layers) <= island(graph, layers, free) <= {*layers, *free}


def test_an_operator_between_layers_joins_them() -> None:
    graph = network([[0], [1], [2]], [2])
    first, between, last = graph
    assert island(graph, [first, last], [between]) == {first, between, last}


def test_a_branch_that_starts_outside_joins_where_that_saves_a_cast() -> None:
    # x -> a; x -> b -> c; a + c -> d: with b and c outside, both x and c are cast; inside, x alone.
    graph = network([[0], [0], [2], [1, 3], [4]], [4])
    first, b, c, total, last = graph
    assert island(graph, [first, last], [b, c, total]) == {first, b, c, total, last}
