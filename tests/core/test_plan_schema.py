"""The schema of plan.json, read by a small validator of its own, against the dataclasses."""

import copy
import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.errors import PlanError
from autocompress.core.layer_rules import BLOCK_SIZES, FORMATS, GRANULARITIES, ROUNDINGS
from autocompress.core.plan import (
    ACTIVATION_BITS,
    AGGREGATIONS,
    CALIBRATORS,
    IMPORTANCES,
    WEIGHT_BITS,
    CompressionPlan,
    DistillationPlan,
    LayerPlan,
)
from autocompress.core.plan_schema import SCHEMA_FILE, schema_text
from autocompress.core.rank_plan import RANK_METHODS, RankPlan
from autocompress.core.sparsity_plan import SPARSITY_PATTERNS, SparsityPlan

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
REMARKS = {"$schema", "$defs", "title", "description", "default"}


def accepts(value: Any, schema: dict[str, Any] = SCHEMA) -> bool:
    """Validation by JSON Schema 2020-12, for the keywords that the schema uses; any other is an error."""
    verdicts = []
    for key, wanted in schema.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key == "$ref":
            verdicts.append(accepts(value, SCHEMA["$defs"][wanted.removeprefix("#/$defs/")]))
        elif key == "type":
            verdicts.append(isinstance(value, KINDS[wanted]) and (wanted == "boolean" or not isinstance(value, bool)))
        elif key == "enum":
            verdicts.append(any(value == item and type(value) is type(item) for item in wanted))
        elif key == "const":
            verdicts.append(value == wanted)
        elif key == "items":
            verdicts.append(not isinstance(value, list) or all(accepts(item, wanted) for item in value))
        elif key == "properties":
            inner = value if isinstance(value, dict) else {}
            verdicts.append(all(accepts(item, wanted[name]) for name, item in inner.items() if name in wanted))
        elif key == "additionalProperties":
            inner = value if isinstance(value, dict) else {}
            rest = [item for name, item in inner.items() if name not in schema.get("properties", {})]
            verdicts.append(not rest if wanted is False else all(accepts(item, wanted) for item in rest))
        elif key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            compared = {
                "minimum": lambda low: value >= low,
                "maximum": lambda high: value <= high,
                "exclusiveMinimum": lambda low: value > low,
                "exclusiveMaximum": lambda high: value < high,
            }[key]
            verdicts.append(not number or compared(wanted))
        else:
            assert key in REMARKS, key
    return all(verdicts)


def _layer(values: dict[str, Any]) -> LayerPlan | None:
    try:
        return LayerPlan(**values)
    except PlanError:
        return None


SPARSITY = st.builds(SparsityPlan, pattern=st.sampled_from(SPARSITY_PATTERNS), ratio=st.floats(0, 0.99))
RANK = st.builds(RankPlan, method=st.sampled_from(RANK_METHODS), ratio=st.floats(0.01, 1))
FIELDS = {
    "weight_bits": st.sampled_from(WEIGHT_BITS),
    "activation_bits": st.sampled_from(ACTIVATION_BITS),
    "sparsity": st.none() | SPARSITY,
    "rank": st.none() | RANK,
    "granularity": st.sampled_from(GRANULARITIES),
    "block_size": st.sampled_from(BLOCK_SIZES),
    "symmetric": st.booleans(),
    "dynamic": st.booleans(),
    "format": st.sampled_from(FORMATS),
    "rounding": st.sampled_from(ROUNDINGS),
}
LAYERS = st.fixed_dictionaries({}, optional=FIELDS).map(_layer).filter(lambda layer: layer is not None)
PLANS = st.builds(
    CompressionPlan,
    layers=st.dictionaries(st.text(min_size=1, max_size=5), LAYERS, max_size=3),
    prune=st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 0.99), max_size=2),
    skip=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
    importance=st.sampled_from(IMPORTANCES),
    aggregation=st.none() | st.sampled_from(AGGREGATIONS),
    calibrator=st.sampled_from(CALIBRATORS),
    distillation=st.none() | st.builds(DistillationPlan, steps=st.integers(0, 500)),
    equalize=st.booleans(),
)


def test_the_file_is_what_the_dataclasses_give() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python -m autocompress.core.plan_schema"


@given(PLANS)
def test_any_plan_s_json_is_valid_and_reads_back(plan: CompressionPlan) -> None:
    assert accepts(json.loads(plan.to_json()))
    assert CompressionPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("kind", [LayerPlan, SparsityPlan, RankPlan, DistillationPlan, CompressionPlan])
def test_every_field_is_described(kind: type[Any]) -> None:
    properties = (SCHEMA if kind is CompressionPlan else SCHEMA["$defs"][kind.__name__])["properties"]
    assert {field.name for field in dataclasses.fields(kind)} == properties.keys() - {"version"}
    assert all(item.get("description") for name, item in properties.items() if name != "version")


FULL = CompressionPlan(
    layers={
        "a": LayerPlan(weight_bits=4, granularity="block", block_size=64, symmetric=False, rank=RankPlan(ratio=0.5))
    },
    prune={"g": 0.5},
    skip=("s",),
    aggregation="mean",
    distillation=DistillationPlan(),
    equalize=True,
).to_dict()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("layers",), []),
        (("layers", "a"), 8),
        (("layers", "a", "weight_bits"), 5),
        (("layers", "a", "weight_bits"), "8"),
        (("layers", "a", "weight_bits"), True),
        (("layers", "a", "block_size"), 48),
        (("layers", "a", "granularity"), "row"),
        (("layers", "a", "symmetric"), 1),
        (("layers", "a", "format"), "float"),
        (("layers", "a", "rounding"), "up"),
        (("layers", "a", "bits"), 8),
        (("layers", "a", "rank", "method"), "lu"),
        (("layers", "a", "rank", "ratio"), 0),
        (("layers", "a", "rank", "ratio"), 1.5),
        (("prune", "g"), 1.0),
        (("prune", "g"), -0.1),
        (("skip",), "s"),
        (("skip",), [1]),
        (("importance",), "l3"),
        (("aggregation",), "median"),
        (("calibrator",), "max"),
        (("equalize",), "yes"),
        (("distillation", "steps"), -1),
        (("distillation", "temperature"), 0),
        (("distillation", "steps"), 1.5),
        (("seed",), 3),
    ],
    ids=lambda item: ".".join(item) if isinstance(item, tuple) else repr(item),
)
def test_schema_and_reader_refuse_the_same(path: tuple[str, ...], value: object) -> None:
    assert accepts(FULL)
    broken = copy.deepcopy(FULL)
    place = broken
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert not accepts(broken)
    with pytest.raises(PlanError):
        CompressionPlan.from_dict(broken)


def test_defaults_are_those_of_the_dataclasses() -> None:
    for kind in (LayerPlan, SparsityPlan, DistillationPlan):
        made = kind()
        for name, item in SCHEMA["$defs"][kind.__name__]["properties"].items():
            if "default" in item:
                value = getattr(made, name)
                assert math.isclose(value, item["default"]) if isinstance(value, float) else value == item["default"]
