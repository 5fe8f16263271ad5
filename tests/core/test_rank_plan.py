"""Ranks in plans: validation and JSON."""

from __future__ import annotations

import pytest

from autocompress.core.errors import PlanError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ({}, "either `ratio` or `energy`, but got ratio=None and energy=None"),
        ({"ratio": 0.5, "energy": 0.9}, "either `ratio` or `energy`"),
        ({"ratio": 0}, r"layers.a.rank: The rank `ratio` must be in \(0, 1\], but got 0"),
        ({"energy": 1.5}, r"The rank `energy` must be in \(0, 1\], but got 1.5"),
        ({"energy": "all"}, "`layers.a.rank.energy` must be float"),
        ({"ratio": True}, "`layers.a.rank.ratio` must be float"),
        ({"method": "cp", "ratio": 0.5}, "must be one of .* but got 'cp'"),
        ({"ratios": 0.5}, "did you mean 'ratio'"),
        (0.5, "must be an object"),
    ],
)
def test_a_malformed_rank_is_refused(rank: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        CompressionPlan.from_dict({"layers": {"a": {"rank": rank}}})


@pytest.mark.parametrize("rank", [RankPlan(ratio=0.5), RankPlan(method="tucker2", energy=0.9)])
def test_json_round_trip_keeps_the_rank(rank: RankPlan) -> None:
    plan = CompressionPlan(layers={"a": LayerPlan(weight_bits=8, rank=rank)})
    again = CompressionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest


def test_what_is_not_set_is_not_written() -> None:
    layers = {"a": LayerPlan(), "b": LayerPlan(rank=RankPlan(ratio=0.5))}
    written = CompressionPlan(layers=layers).to_dict()["layers"]
    assert "rank" not in written["a"]
    assert written["b"]["rank"] == {"method": "auto", "ratio": 0.5}


def test_a_rank_changes_the_structure_and_bits_do_not() -> None:
    plan = CompressionPlan(layers={"a": LayerPlan(rank=RankPlan(ratio=0.5))})
    assert plan.restructures
    assert plan.structure_digest != CompressionPlan(layers={"a": LayerPlan()}).structure_digest
    narrow = plan.replace(layers={"a": LayerPlan(weight_bits=8, rank=RankPlan(ratio=0.5))})
    assert plan.structure_digest == narrow.structure_digest


def test_a_factor_takes_the_plan_of_its_layer() -> None:
    thin = LayerPlan(weight_bits=8, rank=RankPlan(ratio=0.5))
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=4), "a": thin, "b": LayerPlan(weight_bits=2)})
    assert plan.layer("a.1") == thin
    assert plan.layer("a.7").weight_bits == plan.layer("b.0").weight_bits == 4
