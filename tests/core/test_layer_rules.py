"""What of a layer's quantization goes together, and that a silent plan is what it always was."""

import hashlib
import itertools
import json
from typing import Any

import pytest

from autocompress.core.errors import PlanError
from autocompress.core.layer_rules import BLOCK_SIZES, FORMATS, GRANULARITIES, QUANTIZATION_DEFAULTS, ROUNDINGS, changed
from autocompress.core.plan import ACTIVATION_BITS, WEIGHT_BITS, CompressionPlan, LayerPlan

VALUES: dict[str, tuple[Any, ...]] = {
    "weight_bits": WEIGHT_BITS,
    "activation_bits": ACTIVATION_BITS,
    "granularity": GRANULARITIES,
    "symmetric": (True, False),
    "dynamic": (False, True),
    "format": FORMATS,
    "rounding": ROUNDINGS,
}


def valid_layers() -> list[LayerPlan]:
    found = []
    for values in itertools.product(*VALUES.values()):
        try:
            found.append(LayerPlan(**dict(zip(VALUES, values, strict=True))))
        except PlanError:
            continue
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"granularity": "row"}, r"`granularity` must be one of .*'block'.*, but got 'row'"),
        ({"granularity": "block", "block_size": 48}, "`block_size` must be one of .*but got 48"),
        ({"format": "float"}, "`format` must be one of .*but got 'float'"),
        ({"rounding": "up"}, "`rounding` must be one of .*but got 'up'"),
        ({"symmetric": 1}, "`symmetric` must be true or false, but got 1"),
        ({"block_size": 64}, "granularity 'block' only, but got granularity 'channel'"),
        ({"weight_bits": 16, "format": "log"}, "at most 8 bits, but got format 'log' with weight_bits=16"),
        ({"dynamic": True}, "needs 8-bit activations, but got activation_bits=32"),
        ({"activation_bits": 8, "dynamic": True, "symmetric": False}, "symmetric weights.*, but got symmetric=False"),
        ({"activation_bits": 8, "granularity": "block"}, "but got granularity 'block' with activation_bits=8"),
        ({"activation_bits": 8, "format": "codebook"}, "but got format 'codebook' with activation_bits=8"),
        ({"format": "codebook", "symmetric": False}, "but got format 'codebook' with symmetric=False"),
        ({"weight_bits": 8, "format": "power_of_two"}, "at most 6 bits.*but got weight_bits=8"),
        ({"rounding": "adaround", "granularity": "block"}, "'adaround' needs uniform symmetric.*granularity 'block'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_rule_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        LayerPlan(**{"weight_bits": 4} | fields)
    assert "\n" not in str(caught.value)


def test_every_kind_of_quantization_is_in_some_valid_plan() -> None:
    found = valid_layers()
    for name, values in VALUES.items():
        assert {getattr(plan, name) for plan in found} == set(values)


def test_every_valid_plan_has_its_own_label_and_survives_json() -> None:
    found = valid_layers()
    named = [plan for plan in found if plan.activation_bits != 16 and plan.weight_bits < 16]
    assert len({plan.label for plan in named}) == len(named)
    plan = CompressionPlan(layers={plan.label: plan for plan in named})
    assert CompressionPlan.from_json(plan.to_json()) == plan


def test_a_silent_layer_writes_its_bits_only_and_keeps_its_digest() -> None:
    plan = CompressionPlan(layers={"*": LayerPlan(weight_bits=8, activation_bits=8)})
    text = (
        '{"calibrator":"minmax","importance":"l1","layers":{"*":{"activation_bits":8,"weight_bits":8}},'
        '"prune":{},"version":1}'
    )
    assert json.loads(plan.to_json()) == json.loads(text)
    assert plan.digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_only_what_is_not_default_is_written() -> None:
    layer = LayerPlan(weight_bits=4, granularity="block", block_size=BLOCK_SIZES[0], symmetric=False)
    written = CompressionPlan(layers={"a": layer}).to_dict()["layers"]["a"]
    given = {"granularity": "block", "block_size": 16, "symmetric": False}
    assert written == {"weight_bits": 4, "activation_bits": 32} | given
    assert changed(layer) == given


@pytest.mark.parametrize(("field", "value"), [("granularity", 3), ("symmetric", "no"), ("block_size", 32.0)])
def test_a_wrong_type_in_json_names_the_field(field: str, value: object) -> None:
    data = {"layers": {"a": {"weight_bits": 4, field: value}}}
    with pytest.raises(PlanError, match=f"layers.a.{field}"):
        CompressionPlan.from_dict(data)


def test_the_defaults_are_those_of_the_plan() -> None:
    assert {name: getattr(LayerPlan(), name) for name in QUANTIZATION_DEFAULTS} == QUANTIZATION_DEFAULTS
