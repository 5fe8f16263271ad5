"""From a plan to the artifact's graph, in a fixed order.

Prune, skip blocks, take layers of low rank apart, set weights to zero, (heal,) fold BatchNormalization, equalize,
quantize.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from autocompress.compress.adaround import round_layers, with_possible_rounding
from autocompress.compress.calibrate import Calibration, calibrate
from autocompress.compress.equalize import equalize
from autocompress.compress.fold import fold_batch_norm
from autocompress.compress.importance import channel_scores
from autocompress.compress.importance.rewind import rewound
from autocompress.compress.legal import layer_plans, legality
from autocompress.compress.low_rank import LayerRank, factor_plans, low_rank
from autocompress.compress.prune import kept_values, prune, select_kept
from autocompress.compress.quantize import NO_DATA, quantize
from autocompress.compress.ranges import EXTREMES
from autocompress.compress.sparsify import sparse_layers, sparsify, store_sparse
from autocompress.compress.weights import QuantizedWeight, WeightCache
from autocompress.core.errors import PlanError, UnknownNameError
from autocompress.core.plan import CompressionPlan, LayerPlan
from autocompress.core.protocols import Dataset
from autocompress.graph.blocks import without_blocks
from autocompress.graph.model_graph import ModelGraph

T = TypeVar("T")
#: Graphs and folded graphs that are remembered; a graph of a large network is a copy of its weights.
_GRAPHS = 8
_CALIBRATIONS = 64


class _Recent(Generic[T]):
    """A few values made on demand; the one used longest ago goes first."""

    def __init__(self, capacity: int) -> None:
        self._entries: OrderedDict[Hashable, T] = OrderedDict()
        self._capacity = capacity

    def known(self, key: Hashable) -> T | None:
        """What is remembered; None where nothing is."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def get(self, key: Hashable, make: Callable[[], T], *, good: Callable[[T], bool] = lambda item: True) -> T:
        found = self._entries.get(key)
        if found is None or not good(found):
            found = self._entries[key] = make()
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return found


class Compressor:
    """Applies plans to one graph, with all that a search wants remembered between them.

    Args:
        graph: the uncompressed graph.
        dataset: samples for calibration and for importance that reads data; None allows what needs none.
        activation_type: ``uint8`` or ``int8``, as the runtime is fast with.
        seed: of importance ``random`` and the choice of samples for importance.
        calibration_samples: at most as many are used.
        reduce_range: 7-bit weights in place of 8-bit ones for integer compute; x86 without VNNI needs them.
        early_weights: initializer name to its value early in training; importance ``lottery`` rewinds what it keeps to
            them. Without, it keeps the trained weights.

    Raises:
        PlanError: early weights that lack a layer's weight, or have another shape.
    """

    def __init__(
        self,
        graph: ModelGraph,
        *,
        dataset: Dataset | None = None,
        activation_type: str = "uint8",
        seed: int = 0,
        calibration_samples: int = 128,
        reduce_range: bool = False,
        early_weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.graph = graph
        self._early = None if early_weights is None else rewound(graph, early_weights)
        self.legal = legality(graph)
        self._dataset = dataset
        self._activation_type = activation_type
        self._seed = seed
        self._samples = calibration_samples
        self._reduce_range = reduce_range
        self._weights = WeightCache()
        self._scores: dict[tuple[str, str | None], Mapping[str, NDArray[np.float64]]] = {}
        self._kept: _Recent[dict[str, NDArray[np.intp]]] = _Recent(256)
        self._pruned: _Recent[tuple[ModelGraph, dict[str, LayerRank]]] = _Recent(_GRAPHS)
        # A graph stands for itself: the entry keeps it alive, so no other can have its id.
        self._folded: _Recent[tuple[ModelGraph, ModelGraph]] = _Recent(_GRAPHS)
        self._equal: _Recent[tuple[ModelGraph, ModelGraph]] = _Recent(_GRAPHS)
        self._rounded: _Recent[dict[str, QuantizedWeight]] = _Recent(_GRAPHS)
        self._calibrations: _Recent[Calibration] = _Recent(_CALIBRATIONS)

    def kept(self, plan: CompressionPlan) -> dict[str, NDArray[np.intp]]:
        """Group name to the sorted units that stay, for groups that lose any; cached.

        Raises:
            PlanError: a group that does not exist or is blocked, or importance that lacks the data it reads.
        """
        return self._kept.get(_structure(plan), lambda: self._select(plan))

    def pruned(self, plan: CompressionPlan) -> ModelGraph:
        """The graph without what the plan removes, layers of low rank taken apart; cached.

        It is float32 and keeps its BatchNormalization.

        Raises:
            PlanError: as :meth:`kept`, or a layer named explicitly that cannot be of low rank.
        """
        if not plan.restructures:
            self.graph.check_plan(plan)
            return self.graph
        return self._pruned.get(_structure(plan), lambda: self._without(plan))[0]

    def ranks(self, plan: CompressionPlan) -> dict[str, LayerRank]:
        """Layer name to what became of it, for the layers that the plan gives a rank.

        Raises:
            PlanError: as :meth:`pruned`.
        """
        if not plan.ranks:
            return {}
        return self._pruned.get(_structure(plan), lambda: self._without(plan))[1]

    def finish(
        self,
        float_graph: ModelGraph,
        plan: CompressionPlan,
        *,
        draft: bool = False,
        calibration: Calibration | None = None,
    ) -> ModelGraph:
        """The artifact's graph: BatchNormalization folded, every layer at its precision.

        Args:
            float_graph: what :meth:`pruned` gave, healed or not.
            plan: its layers are applied.
            draft: take activation ranges from the uncompressed graph: the artifact has its final operators, shapes,
                size and latency, but not its accuracy.
            calibration: ranges to use; measured on the data where None.

        Raises:
            PlanError: an unknown layer, one named explicitly that may not take its precision, or 8-bit activations
                without data.
            CandidateError: activations or weights that are not finite.
        """
        layers = self.layer_plans(plan)
        needs_ranges = any(layer.needs_ranges for layer in layers.values())
        if needs_ranges and self._dataset is None and calibration is None:
            raise PlanError(f"{NO_DATA[0].upper()}{NO_DATA[1:]}.")
        source = self._equalized(float_graph) if plan.equalize else float_graph
        corrects = self._dataset is not None and not draft and any(layer.weight_bits < 8 for layer in layers.values())
        # What is calibrated is folded for that, and remembered.
        calibrates = calibration is None and not draft and (needs_ranges or corrects)
        folded, is_own = (self.folded(source), False) if calibrates else self._folded_once(source)
        layers = self._with_rounding(factor_plans(layers, plan, folded), plan, folded, draft=draft)
        sparse = [name for name, found in sparse_layers(plan, folded).items() if found.storage == "sparse"]
        if sparse and not layers:
            return store_sparse(folded, sparse)
        if not layers:
            return folded
        if needs_ranges and calibration is None and draft:
            try:
                # Pruning keeps the names of values, so the uncompressed graph's ranges fit in form.
                whole = self._equalized(self.graph) if plan.equalize else self.graph
                ranges = self.calibration(whole, plan.calibrator)
                return store_sparse(self._quantized(folded, layers, plan, ranges, is_own=is_own), sparse)
            except UnknownNameError:
                folded, is_own = self.folded(source), False
        if calibration is None and (needs_ranges or corrects):
            calibration = self.calibration(source, plan.calibrator)
        return store_sparse(self._quantized(folded, layers, plan, calibration, is_own=is_own), sparse)

    def layer_plans(self, plan: CompressionPlan) -> dict[str, LayerPlan]:
        """What the plan means for each layer; layers that stay float32 or are skipped are left out.

        Raises:
            PlanError: an unknown layer, or one named explicitly that may not take its precision.
        """
        skipped = {name for block in self.graph.blocks() if block.name in plan.skip for name in block.layers}
        return {name: layer for name, layer in layer_plans(plan, self.legal).items() if name not in skipped}

    def folded(self, float_graph: ModelGraph) -> ModelGraph:
        """The graph with BatchNormalization folded; cached."""
        return self._folded.get(id(float_graph), lambda: (float_graph, fold_batch_norm(float_graph)))[1]

    def _folded_once(self, float_graph: ModelGraph) -> tuple[ModelGraph, bool]:
        """The same, and whether nothing else holds it, so that it may become the artifact without a copy."""
        known = self._folded.known(id(float_graph))
        return (fold_batch_norm(float_graph), True) if known is None else (known[1], False)

    def _equalized(self, float_graph: ModelGraph) -> ModelGraph:
        """The folded graph with the ranges of its channels equalized; cached."""
        return self._equal.get(id(float_graph), lambda: (float_graph, equalize(self.folded(float_graph))))[1]

    def _with_rounding(
        self, layers: dict[str, LayerPlan], plan: CompressionPlan, folded: ModelGraph, *, draft: bool
    ) -> dict[str, LayerPlan]:
        """The layers' plans without a rounding that the graph does not allow; a draft rounds to the nearest."""
        if not any(layer.rounding == "adaround" for layer in layers.values()):
            return layers
        if draft:
            return {name: replace(layer, rounding="nearest") for name, layer in layers.items()}
        return with_possible_rounding(folded, layers, named=plan.layers)

    def calibration(self, float_graph: ModelGraph, calibrator: str = "minmax") -> Calibration:
        """Activation ranges of a graph that ``calibrator`` can use; cached by the graph's digest.

        Raises:
            PlanError: there is no data.
            CandidateError: an activation is NaN or infinite.
        """
        dataset = self._dataset
        if dataset is None:
            raise PlanError(f"{NO_DATA[0].upper()}{NO_DATA[1:]}.")
        folded = self.folded(float_graph)
        return self._calibrations.get(
            folded.digest,
            lambda: calibrate(folded, dataset, samples=self._samples, histograms=calibrator not in EXTREMES),
            good=lambda found: found.supports(calibrator),
        )

    def _quantized(
        self,
        folded: ModelGraph,
        layers: Mapping[str, LayerPlan],
        plan: CompressionPlan,
        calibration: Calibration | None,
        *,
        is_own: bool,
    ) -> ModelGraph:
        rounded = None
        dataset = self._dataset
        if dataset is not None and any(layer.rounding == "adaround" for layer in layers.values()):
            labels = tuple((name, layer.label) for name, layer in layers.items() if layer.rounding == "adaround")
            rounded = self._rounded.get(
                (folded.digest, labels), lambda: round_layers(folded, layers, dataset, reduce_range=self._reduce_range)
            )
        return quantize(
            folded,
            layers,
            calibration,
            rounded=rounded,
            calibrator=plan.calibrator,
            activation_type=self._activation_type,
            reduce_range=self._reduce_range,
            cache=self._weights,
            copy=not is_own,
        )

    def kept_values(self, plan: CompressionPlan) -> dict[str, dict[int, NDArray[np.intp]]]:
        """Value name to axis to the sorted entries that stay, for values of the graph that lose any."""
        return kept_values(self.graph, self.kept(plan)) if any(plan.prune.values()) else {}

    def _without(self, plan: CompressionPlan) -> tuple[ModelGraph, dict[str, LayerRank]]:
        self.graph.check_plan(plan)
        source = self._early if self._early is not None and plan.importance == "lottery" else self.graph
        narrow = prune(source, self.kept(plan)) if any(plan.prune.values()) else source
        thin, ranks = low_rank(without_blocks(narrow, plan.skip), plan)
        return sparsify(thin, plan), ranks

    def _select(self, plan: CompressionPlan) -> dict[str, NDArray[np.intp]]:
        groups = self.graph.groups()
        key = (plan.importance, plan.aggregation)
        if key not in self._scores:
            self._scores[key] = channel_scores(
                self.graph,
                groups,
                plan.importance,
                dataset=self._dataset,
                rng=np.random.default_rng(self._seed),
                aggregation=plan.aggregation,
            )
        return dict(select_kept(groups, self._scores[key], plan))


def compress(
    graph: ModelGraph,
    plan: CompressionPlan,
    *,
    dataset: Dataset | None = None,
    calibration: Calibration | None = None,
    activation_type: str = "uint8",
    healed: ModelGraph | None = None,
    seed: int = 0,
    **options: Any,
) -> ModelGraph:
    """Apply one plan: prune, take apart, fold BatchNormalization, quantize.

    Args:
        graph: the uncompressed graph.
        plan: what to do.
        dataset: samples for calibration and importance; None allows what needs no data.
        calibration: ranges to use in place of measuring them.
        activation_type: ``uint8`` or ``int8``.
        healed: the pruned graph with better weights; re-estimating BatchNormalization and training are the caller's.
        seed: of importance.
        options: more of :class:`Compressor`'s.

    Raises:
        PlanError: the plan does not fit the graph, or needs data.
        CandidateError: activations or weights that are not finite.
    """
    compressor = Compressor(graph, dataset=dataset, activation_type=activation_type, seed=seed, **options)
    float_graph = healed if healed is not None else compressor.pruned(plan)
    return compressor.finish(float_graph, plan, calibration=calibration)


def _structure(plan: CompressionPlan) -> str:
    by_layer = {name: asdict(found) for name, found in plan.sparsities.items()}
    ranks = {name: asdict(found) for name, found in plan.ranks.items()}
    named = sorted(plan.layers) if by_layer or ranks else []
    channels = [plan.importance, plan.aggregation, sorted(plan.prune.items()), plan.skip]
    return json.dumps([*channels, sorted(by_layer.items()), sorted(ranks.items()), named])
