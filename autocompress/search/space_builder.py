"""The search space of one graph on one runtime: a template's offers, less what neither can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from autocompress.compress.importance.scores import IN_TORCH
from autocompress.core.errors import SpaceError, UnknownNameError
from autocompress.core.layer import PruneGroup, SkipBlock, kept_channels
from autocompress.core.objective import Constraint, Objective
from autocompress.core.plan import CALIBRATORS, IMPORTANCES, LayerPlan
from autocompress.core.protocols import Graph
from autocompress.core.rank_plan import RankPlan
from autocompress.core.space import Choice, Kind, SearchSpace
from autocompress.core.sparsity_plan import SparsityPlan
from autocompress.core.target import Capability, Precision, RuntimeSpec, plan_of
from autocompress.graph.model_graph import ModelGraph
from autocompress.hardware.data_files import data_folder, data_names, load_yaml
from autocompress.search.refusals import SIZE_ONLY_REASON, Refusals
from autocompress.search.thin_choices import rank_choices, sparsity_choices

FOLDER = "search_spaces"
#: They make a file smaller than a faster precision does, and nothing else.
SIZE_ONLY = frozenset(
    {Precision.INT4, Precision.INT2, Precision.W8, Precision.W4, Precision.W2, Precision.FP16_STORAGE}
)
_INTEGER = frozenset({Precision.INT8, Precision.INT4, Precision.INT2})
#: Widths below this are not offered for alignment's sake.
_SMALLEST_STEP = 8


class RatioTemplate(BaseModel):
    """Which shares of a group's channels may be removed.

    Args:
        max_options: how many at most, none removed included; 1 turns pruning off.
        min_kept: smallest share of the channels that stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_options: PositiveInt = 5
    min_kept: Annotated[float, Field(gt=0, le=1)] = 0.25


class DistillationTemplate(BaseModel):
    """How pruned candidates may be healed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 60, 200)
    learning_rate: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.02, 0.05)
    temperature: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (2.0, 4.0)
    batch_size: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64,)
    feature_weight: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (100.0,)


class SpaceTemplate(BaseModel):
    """What to offer, whatever the graph.

    Args:
        name: as the file is called.
        description: one line.
        precisions: for every layer; float32 is always offered.
        size_only: when precisions that only make the file smaller are offered: ``auto`` where size counts.
        formats: labels of more ways to store weights, as ``w6a8`` or ``w4a32-codebook``: offered where size counts.
        ratios: of channels to remove.
        rank: labels of ranks, such as ``ratio 0.5`` or ``energy 0.9``, the mildest first: offered to layers that it
            makes cheaper.
        sparsity: labels such as ``2:4`` or ``unstructured 0.9 sparse``: offered where the file gets smaller and size
            counts, or the runtime has kernels for it.
        skip: whether residual blocks may be left out whole.
        importance: ways to rank channels.
        calibrators: ways to choose activation ranges.
        distillation: ways to heal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    precisions: tuple[Precision, ...] = (
        Precision.FP32,
        Precision.FP16,
        Precision.BF16,
        Precision.INT8,
        Precision.INT4,
    )
    size_only: Literal["auto", "always"] = "auto"
    ratios: RatioTemplate = RatioTemplate()
    formats: tuple[str, ...] = ()
    rank: tuple[str, ...] = ()
    sparsity: tuple[str, ...] = ()
    skip: bool = True
    importance: Annotated[tuple[str, ...], Field(min_length=1)] = ("l1",)
    calibrators: Annotated[tuple[str, ...], Field(min_length=1)] = ("minmax",)
    distillation: DistillationTemplate = DistillationTemplate()

    @field_validator("importance", "calibrators")
    @classmethod
    def _known(cls, values: tuple[str, ...], info: Any) -> tuple[str, ...]:
        known = IMPORTANCES if info.field_name == "importance" else CALIBRATORS
        for value in values:
            if value not in known:
                raise UnknownNameError(str(info.field_name).removesuffix("s"), value, known)
        return values

    @field_validator("formats", "rank", "sparsity")
    @classmethod
    def _labels(cls, values: tuple[str, ...], info: Any) -> tuple[str, ...]:
        readers: dict[str, Callable[[str], Any]] = {
            "formats": lambda label: Precision.pricing(LayerPlan.from_label(label)),
            "rank": RankPlan.from_label,
            "sparsity": SparsityPlan.from_label,
        }
        for value in values:
            readers[str(info.field_name)](value)
        return values


def template_names() -> tuple[str, ...]:
    """Names of the templates that come with the package."""
    return data_names(FOLDER)


def load_template(name_or_path: str | Path) -> SpaceTemplate:
    """A template by its name, or from a ``.yaml`` file.

    Raises:
        UnknownNameError: neither a template nor a file is called that, or a value in it names nothing.
        SpaceError: the file is malformed.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in template_names():
            raise UnknownNameError("search space", str(name_or_path), template_names())
        path = data_folder(FOLDER) / f"{name_or_path}.yaml"
    return load_yaml(path, SpaceTemplate, SpaceError)


def build_space(
    graph: Graph,
    spec: RuntimeSpec,
    template: SpaceTemplate,
    *,
    objectives: Sequence[Objective] = (),
    constraints: Sequence[Constraint] = (),
    legal: Mapping[str, Mapping[Precision, str | None]] | None = None,
) -> SearchSpace:
    """Every choice that the template offers and the graph and the runtime can take.

    Args:
        graph: what is compressed.
        spec: the runtime that will run it.
        template: what to offer.
        objectives: precisions that only make the file smaller are left out where no objective or constraint is about
            its size.
        constraints: likewise.
        legal: layer name to precision to why the graph does not allow it, None where it does, as
            :func:`autocompress.compress.legal.legality` gives it; without, only the runtime is asked.

    Raises:
        SpaceError: nothing is left to choose; the message says why.
    """
    metrics = [*(o.metric for o in objectives), *(c.metric for c in constraints)]
    size_counts = template.size_only == "always" or "size_bytes" in metrics
    refused = Refusals(len(graph.layers()))
    wanted = [p.value for p in Precision if p in template.precisions or p is Precision.FP32] + list(template.formats)
    kernels = {option: Precision.pricing(plan_of(option)) for option in wanted}
    precisions = [
        Choice(
            name=f"precision:{layer.name}",
            kind="precision",
            subject=layer.name,
            options=tuple(
                option
                for option, p in kernels.items()
                if _allows(
                    refused,
                    layer.name,
                    option,
                    _capability(spec, layer.op_type, p, (legal or {}).get(layer.name)),
                    size_only=p in SIZE_ONLY or option in template.formats,
                    size_counts=size_counts,
                )
            ),
        )
        for layer in graph.layers()
    ]
    precisions = [choice for choice in precisions if choice.options]
    offered = {kernels[str(option)] for choice in precisions for option in choice.options} or {Precision.FP32}
    multiple = spec.multiple(Precision.INT8) if offered & _INTEGER else max(spec.multiple(p) for p in offered)
    ratios, multiples = _ratio_choices(graph.groups(), multiple, template.ratios, refused)
    skips = _skip_choices(graph.blocks(), template)
    latency_counts = not metrics or "latency_ms" in metrics
    thin: list[Choice] = []
    if isinstance(graph, ModelGraph):
        if template.rank:
            thin += rank_choices(graph, spec, template.rank, refused, latency_counts=latency_counts)
        if template.sparsity:
            counts = {"size_counts": size_counts, "latency_counts": latency_counts}
            thin += sparsity_choices(graph, spec, template.sparsity, refused, **counts)
    untrainable = graph.untrainable if isinstance(graph, ModelGraph) else None
    heals = any((ratios, skips, thin)) and untrainable is None
    importance = template.importance if untrainable is None else _without_torch(template, untrainable, refused)
    others = _other_choices(
        template, integer=bool(offered & _INTEGER), importance=importance if ratios else (), heals=heals
    )
    every = [*precisions, *ratios, *skips, *thin]
    if not any(len(choice.options) > 1 for choice in every):
        reasons = [f"{r.option} for {r.subject}: {r.reason}" for r in refused.listed()]
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise SpaceError(f"There is nothing to compress in this model on {spec.name} with {template.name!r}{why}.")
    every += others
    return SearchSpace(
        choices=tuple(choice for choice in every if len(choice.options) > 1),
        fixed=tuple(choice for choice in every if len(choice.options) == 1),
        refused=refused.listed(),
        channel_multiple=multiples,
        inside=_inside(graph) if skips else {},
    )


def _capability(
    spec: RuntimeSpec, op_type: str, precision: Precision, legal: Mapping[Precision, str | None] | None
) -> Capability:
    """What the runtime says, unless the graph forbids the precision, such as for a weight that two layers share."""
    reason = legal.get(precision) if legal is not None else None
    found = spec.capability(op_type, precision)
    return found if reason is None or not found.supported else Capability(supported=False, reason=reason)


def _allows(
    refused: Refusals, layer: str, option: str, capability: Capability, *, size_only: bool, size_counts: bool
) -> bool:
    """Whether a layer may take an option; notes the reason where it may not."""
    if not capability.supported:
        refused.add(layer, option, capability.reason)
    elif size_only and not size_counts:
        refused.add(layer, option, SIZE_ONLY_REASON)
    else:
        return True
    return False


def _ratio_choices(
    groups: Iterable[PruneGroup], multiple: int, template: RatioTemplate, refused: Refusals
) -> tuple[list[Choice], dict[str, int]]:
    """A ratio choice for each group that can lose channels, and the multiple of every group's kept channels."""
    choices: list[Choice] = []
    multiples: dict[str, int] = {}
    for group in groups:
        if group.blocked is not None:
            refused.add(group.name, "prune", group.blocked)
            continue
        step = group_multiple(group, multiple)
        options = ratio_options(group.channels, step, template)
        if len(options) == 1 and template.max_options > 1:
            reason = (
                f"a group of {group.channels} channels is one multiple of {step}"
                if group.channels <= step
                else f"a group of {group.channels} channels has no smaller width that the template allows"
            )
            refused.add(group.name, "prune", reason)
            continue
        if len(options) == 1:
            continue
        multiples[group.name] = step
        choices.append(
            Choice(name=f"ratio:{group.name}", kind="ratio", subject=group.name, options=options, ordered=True)
        )
    return choices, multiples


def group_multiple(group: PruneGroup, multiple: int) -> int:
    """The multiple of units that keeps a group aligned: less where a unit is several channels, or the group small.

    The multiple is halved while a group has fewer than two of it and half is 8 channels or more.
    """
    widths = [member.indices.shape[1] for member in group.members if member.role == "out"]
    unit = min(widths, default=1)
    step = max(1, multiple // math.gcd(multiple, unit))
    while group.channels < 2 * step and step // 2 * unit >= _SMALLEST_STEP:
        step //= 2
    return step


def ratio_options(channels: int, multiple: int, template: RatioTemplate | None = None) -> tuple[float, ...]:
    """Shares to remove so that a multiple of channels stays, ascending from 0.

    Args:
        channels: of the group; a width that is no multiple itself may stay whole.
        multiple: of the kept channels.
        template: how many options and how far down.

    Returns:
        Ratios for which :func:`~autocompress.core.layer.kept_channels` gives exactly the widths meant.
    """
    template = template or RatioTemplate()
    least = max(multiple, math.ceil(channels * template.min_kept))
    widths = [w for w in range(channels - 1, least - 1, -1) if w % multiple == 0]
    if len(widths) > template.max_options - 1:
        count = template.max_options - 1
        # Evenly spread over the widths, the smallest always among them.
        widths = [widths[math.ceil((i + 1) * len(widths) / count) - 1] for i in range(count)]
    return (0.0, *(_exact_ratio(channels, width) for width in widths))


def _exact_ratio(channels: int, width: int) -> float:
    ratio = round(1.0 - width / channels, 6)
    return ratio if kept_channels(channels, ratio) == width else 1.0 - width / channels


def _skip_choices(blocks: Sequence[SkipBlock], template: SpaceTemplate) -> list[Choice]:
    if not template.skip:
        return []
    return [Choice(name=f"skip:{b.name}", kind="skip", subject=b.name, options=(0, 1)) for b in blocks]


def _inside(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Block name to its layers and to the groups that no weight outside has a part in."""
    found = {}
    for block in graph.blocks():
        own = set(block.initializers)
        groups = [g.name for g in graph.groups() if all(member.initializer in own for member in g.members)]
        found[block.name] = tuple(dict.fromkeys([*block.layers, *groups]))
    return found


def _without_torch(template: SpaceTemplate, reason: str, refused: Refusals) -> tuple[str, ...]:
    """The ways to rank channels that need not run the graph in torch; notes the others, and healing."""
    for name in template.importance:
        if name in IN_TORCH:
            refused.add("channels", f"importance {name}", reason)
    refused.add("pruned networks", "healing", reason)
    return tuple(name for name in template.importance if name not in IN_TORCH) or ("l1",)


def _other_choices(template: SpaceTemplate, *, integer: bool, importance: Sequence[str], heals: bool) -> list[Choice]:
    """How channels are ranked, how activations are calibrated, how pruned candidates are healed."""
    choices: list[Choice] = []

    def add(name: str, kind: Kind, subject: str, options: Iterable[str | float], *, ordered: bool = False) -> None:
        unique = tuple(dict.fromkeys(options))
        choices.append(Choice(name=name, kind=kind, subject=subject, options=unique, ordered=ordered))

    if importance:
        add("importance", "importance", "importance", importance)
    if integer:
        add("calibrator", "calibrator", "calibrator", template.calibrators)
    if heals:
        for field, options in template.distillation.model_dump().items():
            add(f"distillation:{field}", "distillation", field, sorted(options), ordered=True)
    return choices
