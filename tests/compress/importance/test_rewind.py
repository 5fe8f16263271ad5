"""Rewinding what is kept to early weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autocompress.compress.apply import Compressor, compress
from autocompress.compress.importance.rewind import rewound
from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan
from autocompress.graph.model_graph import ModelGraph

TICKET = CompressionPlan(prune={"*": 0.5}, importance="lottery")


@pytest.fixture
def early(normed: ModelGraph) -> dict[str, Any]:
    draw = np.random.default_rng(11)
    return {
        name: draw.uniform(0.5, 1.5, array.shape).astype(np.float32)
        for name, array in normed.initializers.items()
        if array.dtype == np.float32
    }


def test_a_ticket_is_chosen_by_trained_and_starts_from_early_weights(normed: ModelGraph, early: dict[str, Any]) -> None:
    compressor = Compressor(normed, early_weights=early)
    kept = compressor.kept(TICKET)
    assert kept["a"].tolist() == Compressor(normed).kept(TICKET.replace(importance="l1"))["a"].tolist()
    ticket = compressor.pruned(TICKET)
    rows = kept["a"]
    np.testing.assert_array_equal(ticket.initializers["a.weight"], early["a.weight"][rows])
    np.testing.assert_array_equal(ticket.initializers["b.weight"], early["b.weight"][rows][:, rows])
    np.testing.assert_array_equal(ticket.initializers["a_norm.mean"], early["a_norm.mean"][rows])


def test_without_early_weights_the_trained_ones_stay(normed: ModelGraph) -> None:
    compressor = Compressor(normed)
    rows = compressor.kept(TICKET)["a"]
    wanted = normed.initializers["a.weight"][rows]
    np.testing.assert_array_equal(compressor.pruned(TICKET).initializers["a.weight"], wanted)


def test_other_importances_do_not_rewind(normed: ModelGraph, early: dict[str, Any]) -> None:
    compressor = Compressor(normed, early_weights=early)
    plan = TICKET.replace(importance="l1")
    wanted = normed.initializers["a.weight"][compressor.kept(plan)["a"]]
    np.testing.assert_array_equal(compressor.pruned(plan).initializers["a.weight"], wanted)


def test_compress_takes_early_weights(normed: ModelGraph, early: dict[str, Any]) -> None:
    made = compress(normed, TICKET, early_weights=early)
    assert made.to_bytes() != compress(normed, TICKET).to_bytes()


def test_a_missing_weight_is_named_with_the_nearest(normed: ModelGraph, early: dict[str, Any]) -> None:
    early["a.weights"] = early.pop("a.weight")
    with pytest.raises(PlanError, match=r"early weights have no 'a\.weight'; the nearest name is 'a\.weights'"):
        rewound(normed, early)


def test_another_shape_is_refused(normed: ModelGraph, early: dict[str, Any]) -> None:
    early["b.bias"] = np.zeros(3, np.float32)
    with pytest.raises(PlanError, match=r"early weight 'b\.bias' must have shape \(12,\), but has \(3,\)"):
        rewound(normed, early)


def test_names_that_the_graph_does_not_have_are_passed_over(normed: ModelGraph, early: dict[str, Any]) -> None:
    early["steps"] = np.zeros((), np.int64)
    assert "steps" not in rewound(normed, early).initializers
