"""Replace layers by two or three thinner ones, where that takes fewer multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from autocompress.compress.factor_nodes import canonical, take_apart
from autocompress.compress.factors import Matrix, Spectrum, factorize, ranks_by_ratio, relative_error, spectra
from autocompress.core.errors import PlanError
from autocompress.core.plan import DEFAULT, CompressionPlan, LayerPlan
from autocompress.core.rank_plan import RankPlan
from autocompress.graph.layers import layer_names, weight_value
from autocompress.graph.model_graph import ModelGraph
from autocompress.graph.shapes import Sizes, sample_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRank:
    """What became of one layer that was to be of low rank.

    Args:
        weight_shape: of the layer as it was.
        factors: name of each layer that stands in for it to the shape of its weight; none where it stayed whole.
        method: ``svd``, ``spatial`` or ``tucker2``; None where none fits the layer.
        ranks: between the factors; those that would be taken, where it stayed whole.
        macs: multiply-accumulates for one sample, before and after.
        error: of the weight, relative, as a root of squares; 0 where it stayed whole.
        reason: why it stayed whole, else None.
    """

    weight_shape: tuple[int, ...]
    factors: Mapping[str, tuple[int, ...]]
    method: str | None = None
    ranks: tuple[int, ...] = ()
    macs: tuple[int, int] | None = None
    error: float = 0.0
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        result: dict[str, Any] = {
            "weight_shape": list(self.weight_shape),
            "factors": {name: list(shape) for name, shape in self.factors.items()},
        }
        if self.method is not None and self.macs is not None:
            before, after = self.macs
            result |= {"method": self.method, "ranks": list(self.ranks), "macs_before": before, "macs_after": after}
            result["relative_error"] = self.error
        if self.reason is not None:
            result["whole_because"] = self.reason
        return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Choice:
    """One way to take a layer apart."""

    method: str
    ranks: tuple[int, ...]
    spectra: tuple[Spectrum, ...] | None
    macs: tuple[int, int]


def low_rank(graph: ModelGraph, plan: CompressionPlan) -> tuple[ModelGraph, dict[str, LayerRank]]:
    """Give layers the rank that their plan wants.

    The factors of layer ``x`` are called ``x.0``, ``x.1`` and ``x.2``; the last writes the value that ``x`` wrote,
    under its name and with its bias.

    Args:
        graph: float32; layers that the plan names and the graph has not are passed over, as they may be skipped.
        plan: its layers' ``rank`` is applied.

    Returns:
        The graph, the same one where nothing changes; and layer name to what became of it.

    Raises:
        PlanError: a layer is named explicitly that cannot be taken apart, or not by its method.
    """
    if not plan.ranks:
        return graph, {}
    return _low_rank(graph, plan, dry=False)


def possible_ranks(graph: ModelGraph, rank: RankPlan) -> dict[str, LayerRank]:
    """What :func:`low_rank` would make of every layer, without factors; where there is no reason it becomes cheaper.

    A ratio takes no linear algebra.
    """
    return _low_rank(graph, CompressionPlan(layers={DEFAULT: LayerPlan(rank=rank)}), dry=True)[1]


def _low_rank(graph: ModelGraph, plan: CompressionPlan, *, dry: bool) -> tuple[ModelGraph, dict[str, LayerRank]]:
    copy = graph.clone()
    model = copy.model.graph
    taken = _names(copy.model)
    names, shapes = layer_names(copy.model), sample_shapes(graph)
    found: dict[str, LayerRank] = {}
    for node in list(model):
        name, value = names.get(str(node.name)), weight_value(node)
        rank = None if name is None else plan.layer(name).rank
        if name is None or rank is None or value is None:
            continue
        methods, reason = _methods(node, value, rank.method)
        if reason is None and any(f"{name}.{index}" in taken for index in range(3)):
            reason = f"its factors would be called '{name}.0' and so on, as another part of the model is"
        if reason is not None and name in plan.layers:
            raise PlanError(f"Layer {name!r} cannot be of low rank: {reason}.")
        stored = graph.initializers[str(value.name)]
        if reason is not None:
            found[name] = LayerRank(weight_shape=stored.shape, factors={}, reason=reason)
            continue
        weight = canonical(node, stored).astype(np.float64)
        choice = _cheapest(weight, methods, rank, _sizes(node, shapes), _batch(graph))
        found[name] = _applied(model, node, name, weight, choice, dry=dry)
        if found[name].factors:
            del model.initializers[str(value.name)]
    changed = any(item.factors for item in found.values())
    return (ModelGraph(copy.model) if changed else graph), found


def factor_plans(layers: dict[str, LayerPlan], plan: CompressionPlan, graph: ModelGraph) -> dict[str, LayerPlan]:
    """The plans of a graph's layers, in which each factor has that of the layer it is part of.

    Args:
        layers: name to plan, of the graph as it was.
        plan: says which layers have a rank.
        graph: as :func:`low_rank` left it.
    """
    if not plan.ranks:
        return layers
    names = [layer.name for layer in graph.layers()]
    owners = {name: name if name in layers else name.rpartition(".")[0] for name in names}
    return {name: layers[owner] for name, owner in owners.items() if owner in layers}


def _applied(graph: ir.Graph, node: ir.Node, name: str, weight: Matrix, choice: _Choice, *, dry: bool) -> LayerRank:
    """Take one layer apart, in place, if that makes it cheaper."""
    before, after = choice.macs
    factors: dict[str, tuple[int, ...]] = {}
    error = 0.0
    shape = canonical(node, weight).shape
    if after < before and not dry:
        found = choice.spectra or spectra(weight, choice.method)
        factors = take_apart(graph, node, choice.method, name, factorize(weight, choice.method, choice.ranks, found))
        error = relative_error(weight, choice.method, choice.ranks, found)
    whole = f"its factors would take {after:,} multiply-accumulates, and it takes {before:,}"
    return LayerRank(
        weight_shape=shape,
        factors=factors,
        method=choice.method,
        ranks=choice.ranks,
        macs=choice.macs,
        error=error,
        reason=None if after < before else whole,
    )


def _methods(node: ir.Node, weight: ir.Value, wanted: str) -> tuple[tuple[str, ...], str | None]:
    """The methods that fit a layer, of those that are wanted; or why none does."""
    assert weight.shape is not None
    kernel = [int(size) for size in weight.shape[2:] if isinstance(size, int)]
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return (), f"there is no decomposition of {node.op_type}"
    if node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1:
        return (), "it is a grouped convolution"
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return (), f"its weight has {len(weight.shape)} axes, not 2"
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return (), "its weight has other readers"
    if weight.dtype != ir.DataType.FLOAT:
        return (), f"its weight is {str(weight.dtype).lower()}, not float32"
    if math.prod(kernel) == 1:
        fitting: tuple[str, ...] = ("svd",)
    elif len(kernel) == 2 and min(kernel) > 1:
        fitting = ("spatial", "tucker2")
    else:
        fitting = ("tucker2",)
    if wanted == "auto":
        return fitting, None
    if wanted in fitting:
        return (wanted,), None
    kind = f"a kernel of {' x '.join(map(str, kernel))}" if kernel else "no kernel"
    return (), f"it has {kind}, which takes {' or '.join(map(repr, fitting))}, not {wanted!r}"


def _cheapest(
    weight: Matrix, methods: Sequence[str], plan: RankPlan, sizes: tuple[Sizes, Sizes], batch: int
) -> _Choice:
    choices = []
    for method in methods:
        if plan.ratio is not None:
            # What a ratio costs is known beforehand, so only the method that is taken is worth the work.
            found, ranks = None, ranks_by_ratio(weight.shape, method, plan.ratio)
        else:
            found = spectra(weight, method)
            ranks = tuple(item.rank(plan) for item in found)
        macs = (_macs(weight.shape, sizes), _factor_macs(weight.shape, method, ranks, sizes))
        choices.append(_Choice(method=method, ranks=ranks, spectra=found, macs=(macs[0] // batch, macs[1] // batch)))
    return min(choices, key=lambda choice: choice.macs[1])


def _sizes(node: ir.Node, shapes: Mapping[str, Sizes]) -> tuple[Sizes, Sizes]:
    """Batch and positions of what a layer reads and writes, without the channels' axis."""
    axis = 1 if node.op_type == "Conv" else -1
    read, written = (_without(shapes.get(_name(value), ()), axis) for value in (node.inputs[0], node.outputs[0]))
    # Gemm may read its input transposed; there is a row of inputs for every row of outputs.
    return (written if node.op_type == "Gemm" else read), written


def _name(value: ir.Value | None) -> str:
    return "" if value is None else str(value.name)


def _without(sizes: Sizes, axis: int) -> Sizes:
    kept = list(sizes)
    if kept:
        del kept[axis]
    return tuple(kept)


def _count(sizes: Sizes) -> int:
    return math.prod(1 if size is None else size for size in sizes)


def _macs(shape: tuple[int, ...], sizes: tuple[Sizes, Sizes]) -> int:
    return _count(sizes[1]) * math.prod(shape)


def _factor_macs(shape: tuple[int, ...], method: str, ranks: Sequence[int], sizes: tuple[Sizes, Sizes]) -> int:
    """Multiply-accumulates of all factors: each one's positions times its weights."""
    out, into, *kernel = shape
    read, written = sizes
    if method == "svd":
        return _count(written) * ranks[0] * (into + out)
    if method == "spatial":
        height, width = kernel
        between = (*written[:-1], *read[-1:])
        return ranks[0] * (_count(between) * into * height + _count(written) * out * width)
    first, last = ranks
    inside = first * last * math.prod(kernel)
    return _count(read) * into * first + _count(written) * (inside + last * out)


def _names(model: ir.Model) -> set[str]:
    """Everything that has a name in a graph."""
    graph = model.graph
    found = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
    found.update(str(node.name) for node in graph)
    found.update(str(value.name) for node in graph for value in node.outputs)
    return found | set(layer_names(model).values())


def _batch(graph: ModelGraph) -> int:
    """The batch that a graph is fixed to, else one."""
    sizes = {spec.shape[0] for spec in graph.input_specs if spec.shape} if not graph.batch_axis_dynamic else set()
    return (sizes.pop() or 1) if len(sizes) == 1 else 1
