"""What front points do to layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.trial import Trial
from autocompress.report.layerwise import layer_table, split_sensitivities


def test_precision_and_kept_share(made_up_run: Any, trial_factory: Callable[..., Trial]) -> None:
    plan = CompressionPlan(
        layers={"*": LayerPlan(weight_bits=8, activation_bits=8), "fc": LayerPlan(weight_bits=4, activation_bits=8)},
        prune={"layer2.0.conv1": 0.5},
    )
    table = layer_table([trial_factory(3, plan=plan)], made_up_run.layers, made_up_run.groups)
    row = {name: index for index, name in enumerate(table.layers)}
    assert table.precision[row["conv1"]] == ("int8",)
    assert table.precision[row["fc"]] == ("int4",)
    assert table.kept[row["layer2.0.conv1"]] == (0.5,)
    assert table.kept[row["layer2.0.conv2"]] == (1.0,)


def test_a_blocked_group_has_no_kept_share(made_up_run: Any) -> None:
    table = layer_table(made_up_run.front.trials, made_up_run.layers, made_up_run.groups)
    assert set(table.kept[table.layers.index("fc")]) == {None}


def test_sensitivities_split_by_kind_without_what_changes_nothing() -> None:
    found = split_sensitivities(
        {"precision:a.b": {"fp32": 0.0, "int8": 0.1}, "ratio:a": {"0.0": 0.0}, "ratio:b": {"0.5": 1.0}}
    )
    assert found == {"precision": {"a.b": {"int8": 0.1}}, "ratio": {"b": {"0.5": 1.0}}}
