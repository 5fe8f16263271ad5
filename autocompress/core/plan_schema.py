"""The JSON Schema of ``plan.json``, made from the dataclasses that read it; ``plan.schema.json`` beside it is its text.

``python -m autocompress.core.plan_schema`` writes the file anew; a test tells where that was forgotten.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from autocompress.core import layer_rules, plan, rank_plan, sparsity_plan

SCHEMA_FILE = Path(__file__).with_name("plan.schema.json")
_TITLE = "autocompress plan"
_DESCRIPTION = (
    "What to do to a network: bits a layer, prune ratio a group, and how to win accuracy back. Everything has a "
    "default. Which values of a layer go together is more than this schema says; `compress` names the rule."
)
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
#: What a field may hold beyond its type, by class and field.
_LIMITS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "LayerPlan": {
        "weight_bits": {"enum": plan.WEIGHT_BITS},
        "activation_bits": {"enum": plan.ACTIVATION_BITS},
        "granularity": {"enum": layer_rules.GRANULARITIES},
        "block_size": {"enum": layer_rules.BLOCK_SIZES},
        "format": {"enum": layer_rules.FORMATS},
        "rounding": {"enum": layer_rules.ROUNDINGS},
        "float_type": {"enum": layer_rules.FLOAT_TYPES},
    },
    "SparsityPlan": {
        "pattern": {"enum": sparsity_plan.SPARSITY_PATTERNS},
        "storage": {"enum": sparsity_plan.SPARSITY_STORAGES},
        "ratio": {"minimum": 0, "exclusiveMaximum": 1},
        "block_rows": {"minimum": 1},
        "block_columns": {"minimum": 1},
        "n": {"minimum": 1},
        "m": {"minimum": 2},
    },
    "RankPlan": {
        "method": {"enum": rank_plan.RANK_METHODS},
        "ratio": {"exclusiveMinimum": 0, "maximum": 1},
        "energy": {"exclusiveMinimum": 0, "maximum": 1},
    },
    "DistillationPlan": {
        "steps": {"minimum": 0},
        "batch_size": {"minimum": 1},
        "learning_rate": {"exclusiveMinimum": 0},
        "temperature": {"exclusiveMinimum": 0},
        "feature_weight": {"minimum": 0},
    },
    "CompressionPlan": {
        "importance": {"enum": plan.IMPORTANCES},
        "aggregation": {"enum": plan.AGGREGATIONS},
        "calibrator": {"enum": plan.CALIBRATORS},
        "prune": {"additionalProperties": {"type": "number", "minimum": 0, "exclusiveMaximum": 1}},
        "skip": {"items": {"type": "string"}},
    },
}


def plan_schema() -> dict[str, Any]:
    """The schema, draft 2020-12."""
    definitions: dict[str, Any] = {}
    whole = _object(plan.CompressionPlan, definitions)
    whole["properties"] = {"version": {"const": plan.PLAN_VERSION}} | whole["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": _TITLE,
        "description": _DESCRIPTION,
        **whole,
        "$defs": definitions,
    }


def schema_text() -> str:
    """The text of ``plan.schema.json``."""
    return json.dumps(plan_schema(), indent=2) + "\n"


def _object(kind: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a dataclass; those it holds go into ``definitions``."""
    hints = typing.get_type_hints(kind)
    limits = _LIMITS.get(kind.__name__, {})
    about = _about(kind)
    properties = {}
    for item in fields(kind):
        found = _value(hints[item.name], definitions) | dict(limits.get(item.name, {}))
        if item.name in about:
            found = {"description": about[item.name]} | found
        if item.default is not MISSING and item.default is not None and not isinstance(item.default, tuple):
            found["default"] = item.default
        properties[item.name] = {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field's type; None as an alternative means that the field may be left out."""
    if isinstance(hint, types.UnionType):
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    if is_dataclass(hint):
        kind = typing.cast("type[Any]", hint)
        name = kind.__name__
        if name not in definitions:
            definitions[name] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    origin = typing.get_origin(hint)
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _value(typing.get_args(hint)[1], definitions)}
    if origin is tuple:
        return {"type": "array"}
    return {"type": _TYPES[hint]}


def _about(kind: type[Any]) -> dict[str, str]:
    """Field to what the class's docstring says of it, in plain text."""
    _, _, text = (kind.__doc__ or "").partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        head, colon, rest = line.strip().partition(": ")
        if line.startswith(" " * 8) and not line.startswith(" " * 9) and colon and head.isidentifier():
            name = head
            found[name] = rest
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return {name: _plain(text) for name, text in found.items()}


def _plain(text: str) -> str:
    """Without the marks of a docstring, and the names of constants whose values the schema lists."""
    text = re.sub(r", one of :data:`\w+`", "", text)
    return text.replace(":class:", "").replace(":data:", "").replace("``", "'").replace("`", "")


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
