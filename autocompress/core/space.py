"""The choices a search makes, and how an assignment of them becomes a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autocompress.core.plan import CompressionPlan, DistillationPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.core.target import plan_of

Kind = Literal["precision", "ratio", "skip", "rank", "sparsity", "importance", "calibrator", "distillation"]

#: Options that leave a layer's rank and its weights alone.
WHOLE, NO_ZEROS = "whole", "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One decision.

    Args:
        name: unique, such as ``precision:layer1.0.conv1`` or ``ratio:conv1`` or ``distillation:steps``.
        kind: what it decides.
        subject: layer, group or field it decides about.
        options: what may be chosen, in order where order means something; plain JSON values.
        ordered: whether neighbouring options are alike.
    """

    name: str
    kind: Kind
    subject: str
    options: tuple[str | float | int, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A choice that the target, the graph or the template ruled out, with the reason."""

    subject: str
    option: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Every legal choice for one graph on one target.

    Args:
        choices: those with at least two options.
        fixed: choice-like decisions with one option, kept so that a plan is complete.
        refused: what was ruled out and why.
        channel_multiple: group name to the multiple its kept channels are rounded to.
        inside: block name to the layers and groups that go with it: choices about them mean nothing once it is skipped.
    """

    choices: tuple[Choice, ...]
    fixed: tuple[Choice, ...] = ()
    refused: tuple[Refusal, ...] = ()
    channel_multiple: Mapping[str, int] = field(default_factory=dict)
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def log10_size(self) -> float:
        """Base-10 logarithm of the number of assignments."""
        return sum(math.log10(len(c.options)) for c in self.choices)

    def plan(self, assignment: Mapping[str, Any]) -> CompressionPlan:
        """The plan that an assignment of every choice means.

        Choices that mean nothing are left out, so that equal artifacts have equal plans: those about parts of a skipped
        block, sparse storage of a layer that does not stay float32, distillation where nothing is removed, and how to
        train where nothing is trained.

        Raises:
            KeyError: a choice has no value.
        """
        layers: dict[str, LayerPlan] = {}
        prune: dict[str, float] = {}
        skip: list[str] = []
        parts: list[tuple[str, str, str]] = []
        other: dict[str, Any] = {}
        distillation: dict[str, Any] = {}
        for choice in self.choices + self.fixed:
            value = assignment[choice.name] if choice.name in assignment or len(choice.options) > 1 else None
            value = choice.options[0] if value is None else value
            if choice.kind == "precision":
                layers[choice.subject] = plan_of(str(value))
            elif choice.kind in ("rank", "sparsity"):
                parts.append((choice.kind, choice.subject, str(value)))
            elif choice.kind == "ratio":
                prune[choice.subject] = float(value)
            elif choice.kind == "skip":
                skip += [choice.subject] if int(value) else []
            elif choice.kind == "distillation":
                distillation[choice.subject] = value
            else:
                other[choice.kind] = value
        for kind, subject, label in parts:
            layers[subject] = _with_part(layers.get(subject, LayerPlan()), kind, label)
        gone = {subject for block in skip for subject in self.inside.get(block, ())}
        layers = {name: plan for name, plan in layers.items() if name not in gone}
        prune = {group: ratio for group, ratio in prune.items() if ratio > 0 and group not in gone}
        thin = any(plan.rank or plan.sparsity for plan in layers.values())
        if not prune:
            other.pop("importance", None)
        if not any(plan.activation_bits == 8 for plan in layers.values()):
            other.pop("calibrator", None)
        if distillation.get("steps") == 0:
            distillation = {"steps": 0}
        heal = DistillationPlan(**distillation) if distillation and (prune or skip or thin) else None
        return CompressionPlan(
            layers={n: p for n, p in layers.items() if p != LayerPlan()},
            prune=prune,
            skip=tuple(skip),
            distillation=heal,
            **other,
        )


def _with_part(plan: LayerPlan, kind: str, label: str) -> LayerPlan:
    """A layer's plan with the rank or the sparsity that an option names."""
    if label in (WHOLE, NO_ZEROS):
        return plan
    if kind == "rank":
        return replace(plan, rank=RankPlan.from_label(label))
    sparsity = SparsityPlan.from_label(label)
    # Only float32 weights can be stored so; zeros alone would cost accuracy and win nothing.
    return plan if sparsity.storage == "sparse" and plan.weight_bits < 32 else replace(plan, sparsity=sparsity)
