"""What each point of the front does to each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.layer import LayerInfo, PruneGroup, SkipBlock, kept_channels
from autocompress.core.target import option_of
from autocompress.core.trial import Trial

#: Stands for the precision of a layer that is not there.
SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """Rows are layers in topological order, columns are trials.

    Args:
        layers: row names.
        trials: column trials.
        precision: name of each layer's precision in each trial.
        kept: share of each layer's output channels that stays; None where the layer's channels cannot be pruned.
    """

    layers: tuple[str, ...]
    trials: tuple[Trial, ...]
    precision: tuple[tuple[str, ...], ...]
    kept: tuple[tuple[float | None, ...], ...]


def layer_table(
    trials: Sequence[Trial],
    layers: Sequence[LayerInfo],
    groups: Sequence[PruneGroup],
    blocks: Sequence[SkipBlock] = (),
) -> LayerTable:
    """Precision and kept share of every layer in every trial; a layer of a skipped block is :data:`SKIPPED`."""
    block_of = {name: block.name for block in blocks for name in block.layers}
    by_name = {group.name: group for group in groups}
    return LayerTable(
        layers=tuple(layer.name for layer in layers),
        trials=tuple(trials),
        precision=tuple(
            tuple(
                SKIPPED if block_of.get(layer.name) in t.plan.skip else option_of(t.plan.layer(layer.name))
                for t in trials
            )
            for layer in layers
        ),
        kept=tuple(
            tuple(
                0.0 if block_of.get(layer.name) in t.plan.skip else _kept(t, by_name.get(layer.prune_group or ""))
                for t in trials
            )
            for layer in layers
        ),
    )


def split_sensitivities(
    sensitivities: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Sensitivities by kind of choice.

    Args:
        sensitivities: choice name, such as ``precision:conv1``, to option to KL divergence.

    Returns:
        Kind, such as ``precision``, to subject to option to KL divergence; options that change nothing are left out.
    """
    kinds: dict[str, dict[str, dict[str, float]]] = {}
    for name, options in sensitivities.items():
        kind, _, subject = name.partition(":")
        changing = {option: value for option, value in options.items() if value > 0}
        if changing:
            kinds.setdefault(kind, {})[subject or name] = changing
    return kinds


def _kept(trial: Trial, group: PruneGroup | None) -> float | None:
    if group is None or not group.prunable:
        return None
    return kept_channels(group.channels, trial.plan.ratio(group.name)) / group.channels
