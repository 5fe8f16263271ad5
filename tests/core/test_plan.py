"""Plans: validation, defaults, JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.errors import PlanError
from autocompress.core.plan import AGGREGATIONS, IMPORTANCES, CompressionPlan, DistillationPlan, LayerPlan

BITS = st.sampled_from([(32, 32), (16, 16), (16, 32), (8, 8), (8, 32), (4, 8), (4, 32), (2, 8), (2, 32)])
PLANS = st.builds(
    CompressionPlan,
    layers=st.dictionaries(
        st.text(min_size=1, max_size=8),
        BITS.map(lambda bits: LayerPlan(weight_bits=bits[0], activation_bits=bits[1])),
        max_size=4,
    ),
    prune=st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 0.99), max_size=4),
    importance=st.sampled_from(IMPORTANCES),
    aggregation=st.none() | st.sampled_from(AGGREGATIONS),
    distillation=st.none() | st.builds(DistillationPlan, steps=st.integers(0, 500), temperature=st.floats(0.5, 8)),
)


@given(PLANS)
def test_json_round_trip_keeps_plan_and_digest(plan: CompressionPlan) -> None:
    again = CompressionPlan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest


def test_digest_ignores_the_order_of_keys() -> None:
    int8 = LayerPlan(weight_bits=8, activation_bits=8)
    assert (
        CompressionPlan(layers={"a": int8, "b": LayerPlan()}).digest
        == CompressionPlan(layers={"b": LayerPlan(), "a": int8}).digest
    )


def test_star_is_the_default_and_a_name_wins_over_it() -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8), "a": LayerPlan(weight_bits=4)}, prune={"*": 0.5})
    assert (plan.layer("a").weight_bits, plan.layer("b").weight_bits, plan.ratio("g")) == (4, 8, 0.5)


def test_the_issue_s_example_is_read() -> None:
    text = '{"layers": {"*": {"weight_bits": 8, "activation_bits": 8}}, "prune": {"*": 0.5}, "importance": "l1"}'
    assert CompressionPlan.from_json(text).ratio("any") == 0.5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"layer": {}}, "did you mean 'layers'"),
        ({"layers": {"a": {"weight_bit": 8}}}, "did you mean 'weight_bits'"),
        ({"layers": {"a": {"weight_bits": 5}}}, "must be one of"),
        ({"layers": {"a": {"weight_bits": "8"}}}, "layers.a.weight_bits"),
        ({"layers": {"a": {"weight_bits": 32, "activation_bits": 8}}}, "at most 8 bits"),
        ({"prune": {"g": 1.0}}, r"\[0, 1\)"),
        ({"prune": {"g": True}}, r"\[0, 1\)"),
        ({"prune": [0.5]}, "must be an object"),
        ({"importance": "l3"}, "'l3'"),
        ({"aggregation": "median"}, "`aggregation` must be one of .* but got 'median'"),
        ({"version": 9}, "version 9"),
        ({"distillation": {"steps": -1}}, "at least 0"),
        ({"distillation": {"learning_rate": 0}}, "positive"),
        ([], "must be an object"),
    ],
)
def test_a_malformed_plan_is_refused_in_one_line(data: object, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        CompressionPlan.from_json(json.dumps(data))
    assert "\n" not in str(caught.value)


def test_broken_json_is_refused() -> None:
    with pytest.raises(PlanError, match="not JSON"):
        CompressionPlan.from_json("{")


def test_an_unknown_layer_is_refused_with_the_nearest() -> None:
    plan = CompressionPlan(layers={"layer1.conv": LayerPlan(weight_bits=8)})
    with pytest.raises(PlanError, match=r"did you mean 'layer1\.conv1'"):
        plan.check(layers=["layer1.conv1"], groups=[], blocks=[])


def test_structure_digest_does_not_depend_on_bits() -> None:
    plan = CompressionPlan(prune={"g": 0.5})
    assert plan.structure_digest == plan.replace(layers={"*": LayerPlan(weight_bits=8)}).structure_digest
    assert plan.structure_digest != plan.replace(prune={"g": 0.25}).structure_digest


def test_aggregation_is_written_and_counts_only_where_it_is_set() -> None:
    plan = CompressionPlan(prune={"g": 0.5})
    assert "aggregation" not in plan.to_dict()
    assert plan.structure_digest != plan.replace(aggregation="max").structure_digest
