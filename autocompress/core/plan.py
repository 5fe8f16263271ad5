"""What to do to a graph: bits a layer, prune ratio a group, and how to win accuracy back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from autocompress.core.errors import PlanError, nearest
from autocompress.core.layer_rules import changed, check_quantization
from autocompress.core.rank_plan import RankPlan
from autocompress.core.sparsity_plan import SparsityPlan

WEIGHT_BITS = (32, 16, 8, 6, 4, 3, 2)
ACTIVATION_BITS = (32, 16, 8)
IMPORTANCES = (
    "l1",
    "l2",
    "taylor",
    "fisher",
    "bn_scale",
    "activation_mean",
    "apoz",
    "geometric_median",
    "lottery",
    "mixed",
    "random",
)
AGGREGATIONS = ("sum", "mean", "max")
CALIBRATORS = ("minmax", "moving_average", "percentile", "mse", "entropy")
DEFAULT = "*"
PLAN_VERSION = 1
#: What JSON may hold for a field, by the field's type.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float),
    "str": (str,),
    "bool": (bool,),
}
#: Words of a label to the fields they stand for.
_LABEL_WORDS: dict[str, dict[str, Any]] = {
    "tensor": {"granularity": "tensor"},
    "asymmetric": {"symmetric": False},
    "dynamic": {"dynamic": True},
    "adaround": {"rounding": "adaround"},
    **{name: {"format": name} for name in ("codebook", "log", "power_of_two")},
}
#: What ends the names of a layer's low-rank factors, behind a dot.
_FACTORS = ("0", "1", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """How one layer's numbers are kept.

    ``weight_bits`` of 8 and fewer with ``activation_bits`` 32 mean weight-only storage (the layer computes in float32);
    with 8 they mean integer compute. 16 with 16 means compute in ``float_type``, 16 with 32 storage in it. The fields
    from ``granularity`` to ``rounding`` are for at most 8 bits; :mod:`autocompress.core.layer_rules` says which go
    together.

    Args:
        weight_bits: of each stored weight, one of :data:`WEIGHT_BITS`.
        activation_bits: of what the layer reads, one of :data:`ACTIVATION_BITS`.
        sparsity: which weights become zero; None for none.
        rank: low-rank factors that stand in for the weight; None for none.
        granularity: what shares a scale: an output ``channel``, the whole ``tensor``, or a ``block`` of inputs.
        block_size: weights in a block.
        symmetric: whether zero is the middle of the integers; without, each scale has a zero point.
        dynamic: whether activation ranges are found at run time, from each batch, in place of calibration.
        format: ``uniform`` steps, a k-means ``codebook``, ``log``-arithmic steps or ``power_of_two``; all but the first
            are storage.
        rounding: ``nearest``, or ``adaround``: up or down as the layer's outputs on calibration data want it.
        float_type: what 16 bits hold: ``float16``, or ``bfloat16`` with the range of float32 and 8 binary digits, which
            ONNX Runtime's CPU provider stores but does not compute in.
    """

    weight_bits: int = 32
    activation_bits: int = 32
    sparsity: SparsityPlan | None = None
    rank: RankPlan | None = None
    granularity: str = "channel"
    block_size: int = 32
    symmetric: bool = True
    dynamic: bool = False
    format: str = "uniform"
    rounding: str = "nearest"
    float_type: str = "float16"

    def __post_init__(self) -> None:
        if self.weight_bits not in WEIGHT_BITS:
            raise PlanError(f"`weight_bits` must be one of {WEIGHT_BITS}, but got {self.weight_bits!r}.")
        if self.activation_bits not in ACTIVATION_BITS:
            raise PlanError(f"`activation_bits` must be one of {ACTIVATION_BITS}, but got {self.activation_bits!r}.")
        if self.activation_bits == 8 and self.weight_bits > 8:
            raise PlanError(f"8-bit activations need weights of at most 8 bits, but got {self.weight_bits=}.")
        if self.activation_bits == 16 and self.weight_bits != 16:
            raise PlanError(f"16-bit activations need 16-bit weights, but got {self.weight_bits=}.")
        check_quantization(self)

    @property
    def needs_ranges(self) -> bool:
        """Whether the layer needs to know the range of its activations beforehand."""
        return self.activation_bits == 8 and not self.dynamic

    @property
    def label(self) -> str:
        """Short name such as ``w4a8``, ``w4a32-block32-asymmetric``, ``fp16`` or ``fp32``."""
        if self.weight_bits == 32:
            return "fp32"
        if self.activation_bits == 16:
            return "fp16" if self.float_type == "float16" else "bf16"
        parts = [f"w{self.weight_bits}a{self.activation_bits}"]
        if self.float_type != "float16":
            parts.append(self.float_type)
        if self.granularity != "channel":
            parts.append(f"block{self.block_size}" if self.granularity == "block" else self.granularity)
        parts += [word for word, given in (("asymmetric", not self.symmetric), ("dynamic", self.dynamic)) if given]
        parts += [word for word in (self.format, self.rounding) if word not in ("uniform", "nearest")]
        return "-".join(parts)

    @classmethod
    def from_label(cls, label: str) -> LayerPlan:
        """The plan of at most 8 bits that has this :attr:`label`.

        Raises:
            PlanError: not such a label, or its parts do not go together.
        """
        bits, *words = label.split("-")
        found = re.fullmatch(r"w(\d+)a(\d+)", bits)
        values: dict[str, Any] = {}
        for word in words:
            block = re.fullmatch(r"block(\d+)", word)
            if block:
                values |= {"granularity": "block", "block_size": int(block[1])}
            elif word in _LABEL_WORDS:
                values |= _LABEL_WORDS[word]
            else:
                found = None
        if found is None:
            raise PlanError(f"A format is called like 'w6a8', 'w4a32-block32' or 'w4a32-codebook', but got {label!r}.")
        return cls(weight_bits=int(found[1]), activation_bits=int(found[2]), **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationPlan:
    """How accuracy is won back without labels: layers refitted, then distillation (Hinton et al. 2015, section 2).

    Args:
        reconstruct: whether layers are first refitted in closed form, by least squares (He et al. 2017, section 3).
        steps: optimizer steps of the full budget after that; 0 re-estimates BatchNorm only where nothing is refitted.
        learning_rate: peak rate; it falls through the last two fifths of the steps.
        temperature: softens both distributions of the Kullback-Leibler loss.
        batch_size: samples a step.
        feature_weight: of the loss on features inside the network (Romero et al. 2015, section 2.2); 0 leaves it out.
    """

    reconstruct: bool = True
    steps: int = 0
    learning_rate: float = 0.01
    temperature: float = 2.0
    batch_size: int = 64
    feature_weight: float = 100.0

    def __post_init__(self) -> None:
        if not isinstance(self.reconstruct, bool):
            raise PlanError(f"`reconstruct` must be true or false, but got {self.reconstruct!r}.")
        if self.steps < 0:
            raise PlanError(f"`steps` must be at least 0, but got {self.steps}.")
        if self.batch_size < 1:
            raise PlanError(f"`batch_size` must be at least 1, but got {self.batch_size}.")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PlanError(f"`{name}` must be a positive number, but got {value!r}.")
        if not (math.isfinite(self.feature_weight) and self.feature_weight >= 0):
            raise PlanError(f"`feature_weight` must be at least 0, but got {self.feature_weight!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionPlan:
    """A whole candidate: pure data, comparable, and stable as JSON.

    Args:
        layers: layer name to :class:`LayerPlan`; ``"*"`` is the default for every layer that may take it.
        prune: group name to the share of its channels to remove, in ``[0, 1)``; ``"*"`` likewise.
        skip: residual blocks that are left out whole.
        importance: how channels are ranked, one of :data:`IMPORTANCES`.
        aggregation: how a group's coupled members become one score, one of :data:`AGGREGATIONS`; each importance's own
            way where None.
        calibrator: how activation ranges are chosen, one of :data:`CALIBRATORS`.
        distillation: how to heal; None leaves weights as they are.
        equalize: whether neighbouring convolutions share the ranges of their channels before they are quantized.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    prune: Mapping[str, float] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    importance: str = "l1"
    aggregation: str | None = None
    calibrator: str = "minmax"
    distillation: DistillationPlan | None = None
    equalize: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.equalize, bool):
            raise PlanError(f"`equalize` must be true or false, but got {self.equalize!r}.")
        if self.importance not in IMPORTANCES:
            raise PlanError(f"`importance` must be one of {IMPORTANCES}, but got {self.importance!r}.")
        if self.aggregation is not None and self.aggregation not in AGGREGATIONS:
            raise PlanError(f"`aggregation` must be one of {AGGREGATIONS}, but got {self.aggregation!r}.")
        if self.calibrator not in CALIBRATORS:
            raise PlanError(f"`calibrator` must be one of {CALIBRATORS}, but got {self.calibrator!r}.")
        for group, ratio in self.prune.items():
            if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
                raise PlanError(f"The prune ratio of {group!r} must be in [0, 1), but got {ratio!r}.")
        object.__setattr__(self, "skip", tuple(sorted(set(self.skip))))
        object.__setattr__(self, "layers", dict(sorted(self.layers.items())))
        object.__setattr__(self, "prune", {k: float(v) for k, v in sorted(self.prune.items())})

    @property
    def restructures(self) -> bool:
        """Whether anything is removed, so that there is something to heal."""
        return bool(self.skip) or any(self.prune.values()) or bool(self.sparsities) or bool(self.ranks)

    @property
    def sparsities(self) -> dict[str, SparsityPlan]:
        """Layer name, or ``"*"``, to its sparsity, where it has one."""
        return {name: layer.sparsity for name, layer in self.layers.items() if layer.sparsity is not None}

    @property
    def ranks(self) -> dict[str, RankPlan]:
        """Layer name, or ``"*"``, to its rank, where it has one."""
        return {name: layer.rank for name, layer in self.layers.items() if layer.rank is not None}

    def layer(self, name: str) -> LayerPlan:
        """The plan of one layer: its own, else that of ``"*"``, else float32; a factor ``x.0`` takes that of ``x``."""
        whole, _, place = name.rpartition(".")
        if name not in self.layers and place in _FACTORS and whole in self.ranks:
            name = whole
        return self.layers.get(name) or self.layers.get(DEFAULT) or LayerPlan()

    def ratio(self, group: str) -> float:
        """The prune ratio of one group: its own, else that of ``"*"``, else 0."""
        return self.prune.get(group, self.prune.get(DEFAULT, 0.0))

    def check(self, *, layers: Iterable[str], groups: Iterable[str], blocks: Iterable[str]) -> None:
        """Raise :class:`PlanError` where a name is in none of the graph's layers, groups or blocks."""
        named: tuple[tuple[str, Iterable[str], Iterable[str]], ...] = (
            ("layer", self.layers, layers),
            ("group", self.prune, groups),
            ("block", self.skip, blocks),
        )
        for kind, given, names in named:
            known = list(names)
            for name in given:
                if name != DEFAULT and name not in known:
                    near = nearest(name, known)
                    hint = f"; did you mean {near!r}?" if near else f". Known: {', '.join(known[:12]) or 'none'}."
                    raise PlanError(f"The plan names an unknown {kind} {name!r}{hint}")

    def replace(self, **changes: Any) -> CompressionPlan:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def structure_digest(self) -> str:
        """Digest of what decides the float weights (pruning, importance, healing); bits do not change it."""
        decisive = ("prune", "skip", "importance", "aggregation", "distillation")
        found = {k: v for k, v in self.to_dict().items() if k in decisive}
        if self.sparsities:
            # A default of "*" reaches layers that are not named, so who is named matters too.
            found["sparsity"] = {name: _layer_dict(plan).get("sparsity") for name, plan in self.layers.items()}
        if self.ranks:
            found["rank"] = {name: _layer_dict(plan).get("rank") for name, plan in self.layers.items()}
        return _digest(found)

    @property
    def digest(self) -> str:
        """Stable 16-digit hexadecimal digest of the canonical JSON."""
        return _digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` reads them back."""
        result: dict[str, Any] = {
            "version": PLAN_VERSION,
            "layers": {name: _layer_dict(plan) for name, plan in self.layers.items()},
            "prune": dict(self.prune),
            "importance": self.importance,
            "calibrator": self.calibrator,
        }
        if self.aggregation is not None:
            result["aggregation"] = self.aggregation
        if self.equalize:
            result["equalize"] = True
        if self.skip:
            result["skip"] = list(self.skip)
        if self.distillation is not None:
            result["distillation"] = _as_dict(self.distillation)
        return result

    def to_json(self) -> str:
        """Indented canonical JSON with a final newline."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, data: object) -> CompressionPlan:
        """Read a plan; unknown keys fail with the nearest known one.

        Raises:
            PlanError: a wrong type, key, value or version.
        """
        known = (
            "version",
            "layers",
            "prune",
            "skip",
            "importance",
            "aggregation",
            "calibrator",
            "distillation",
            "equalize",
        )
        values = _mapping(data, "plan", known)
        version = values.pop("version", PLAN_VERSION)
        if version != PLAN_VERSION:
            raise PlanError(f"This release reads plans of version {PLAN_VERSION}, but got version {version!r}.")
        layers = _mapping(values.pop("layers", {}), "layers", None)
        values["layers"] = {name: _layer(item, f"layers.{name}") for name, item in layers.items()}
        values["prune"] = _mapping(values.pop("prune", {}), "prune", None)
        values["skip"] = _names(values.pop("skip", []), "skip")
        distillation = values.pop("distillation", None)
        if distillation is not None:
            values["distillation"] = _build(DistillationPlan, distillation, "distillation")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> CompressionPlan:
        """Read a plan from JSON text; see :meth:`from_dict`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"The plan is not JSON: {error}.") from error
        return cls.from_dict(data)


def _layer_dict(plan: LayerPlan) -> dict[str, Any]:
    """A layer's plan with what is not default."""
    result: dict[str, Any] = {"weight_bits": plan.weight_bits, "activation_bits": plan.activation_bits}
    if plan.sparsity is not None:
        result["sparsity"] = _as_dict(plan.sparsity)
    if plan.rank is not None:
        result["rank"] = {key: value for key, value in _as_dict(plan.rank).items() if value is not None}
    if plan.float_type != "float16":
        result["float_type"] = plan.float_type
    return result | changed(plan)


def _layer(data: object, where: str) -> LayerPlan:
    values = _mapping(data, where, [f.name for f in fields(LayerPlan)])
    parts: dict[str, type[Any]] = {"sparsity": SparsityPlan, "rank": RankPlan}
    given = {key: values.pop(key, None) for key in parts}
    plan: LayerPlan = _build(LayerPlan, values, where)
    built = {key: _build(parts[key], item, f"{where}.{key}") for key, item in given.items() if item is not None}
    return replace(plan, **built)


def _as_dict(item: Any) -> dict[str, Any]:
    return {f.name: getattr(item, f.name) for f in fields(item)}


def _digest(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _mapping(data: object, where: str, known: Iterable[str] | None) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise PlanError(f"`{where}` must be an object, but got {type(data).__name__}.")
    names = None if known is None else list(known)
    for key in data:
        if not isinstance(key, str):
            raise PlanError(f"Keys of `{where}` must be text, but got {key!r}.")
        if names is not None and key not in names:
            near = nearest(key, names)
            hint = f"; did you mean {near!r}?" if near else f". Known: {', '.join(names)}."
            raise PlanError(f"Unknown key {key!r} in `{where}`{hint}")
    return dict(data)


def _names(data: object, where: str) -> tuple[str, ...]:
    if not isinstance(data, list | tuple) or not all(isinstance(item, str) for item in data):
        raise PlanError(f"`{where}` must be a list of names, but got {data!r}.")
    return tuple(data)


def _build(kind: type[Any], data: object, where: str) -> Any:
    types = {f.name: f.type for f in fields(kind)}
    values = _mapping(data, where, types)
    for key, value in values.items():
        wanted = _JSON_TYPES[str(types[key])]
        if isinstance(value, bool) != (wanted == (bool,)) or not isinstance(value, wanted):
            raise PlanError(f"`{where}.{key}` must be {types[key]}, but got {value!r}.")
    try:
        return kind(**values)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from error
