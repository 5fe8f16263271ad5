"""Search requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autocompress.core.errors import UserError
from autocompress.core.request import SearchRequest


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": 0}, "trials"),
        ({"budget_seconds": -1.0}, "budget_seconds"),
        ({"max_size_mb": 0.0}, "max_size_mb"),
        ({"max_accuracy_drop": 1.5}, "max_accuracy_drop"),
        ({"max_accuracy_drop": float("nan")}, "max_accuracy_drop"),
        ({"max_latency_ms": float("nan")}, "max_latency_ms"),
        ({"seed": -1}, "seed"),
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("accuracy", "accuracy")}, "objectives"),
        ({"objectives": ("acuracy",)}, "accuracy"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        SearchRequest(**changes)


def test_plain_values_for_yaml() -> None:
    values = SearchRequest(out=Path("runs/a")).to_dict()
    assert values["out"] == "runs/a"
    assert values["objectives"] == ["accuracy", "latency_ms"]
    assert SearchRequest(affinity=(0, 1)).to_dict()["affinity"] == [0, 1]
