"""Activation ranges from one pass over data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autocompress.compress.bias_correction import channel_means
from autocompress.compress.fold import fold_batch_norm
from autocompress.compress.histogram import Histogram
from autocompress.compress.placement import moved_from, observed_values
from autocompress.compress.ranges import CHOOSERS, EXTREMES
from autocompress.core.errors import CandidateError, DataError, UnknownNameError
from autocompress.core.protocols import Dataset
from autocompress.graph.layers import weight_value
from autocompress.graph.model_graph import ModelGraph

#: All activations of a batch are held at once: batches are made smaller so that they fit into this.
BATCH_BYTES = 1 << 28


class Calibration:
    """What the activations of a graph were seen to be.

    Args:
        histograms: value name to histogram.
        means: value name to the ``(channels,)`` averages of its channels, for what layers read.
        counted: whether bins were counted, or extremes only.
        aliases: value name to the name of an observed one with the same numbers.
        samples: how many were seen.
    """

    def __init__(
        self,
        histograms: Mapping[str, Histogram],
        *,
        means: Mapping[str, NDArray[np.float64]] | None = None,
        counted: bool = True,
        aliases: Mapping[str, str] | None = None,
        samples: int = 0,
    ) -> None:
        self._histograms = dict(histograms)
        self._means = dict(means or {})
        self._aliases = dict(aliases or {})
        self._ranges: dict[tuple[str, str], tuple[float, float]] = {}
        self.counted = counted
        self.samples = samples

    def __contains__(self, value: object) -> bool:
        return value in self._histograms or value in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._histograms)

    def supports(self, method: str) -> bool:
        """Whether ranges by this method can be had without another pass."""
        return self.counted or method in EXTREMES

    def means(self, value: str) -> NDArray[np.float64] | None:
        """``(channels,)`` average of each channel of a value that a layer reads; None where it was not observed."""
        return self._means.get(self._aliases.get(value, value))

    def range(self, value: str, method: str = "minmax") -> tuple[float, float]:
        """The range of a value, zero included.

        Args:
            value: name of an activation.
            method: one of :data:`autocompress.core.plan.CALIBRATORS`.

        Raises:
            UnknownNameError: the value was not observed, or the method is unknown.
            CandidateError: only extremes were counted and the method needs more.
        """
        if method not in CHOOSERS:
            raise UnknownNameError("calibrator", method, CHOOSERS)
        name = self._aliases.get(value, value)
        if name not in self._histograms:
            raise UnknownNameError("activation", value, self._histograms)
        if not self.supports(method):
            raise CandidateError("calibrate", f"calibrator {method!r} needs histograms, but only extremes were kept")
        key = (name, method)
        if key not in self._ranges:
            low, high = CHOOSERS[method](self._histograms[name])
            self._ranges[key] = (min(0.0, low), max(0.0, high))
        return self._ranges[key]


def calibrate(
    graph: ModelGraph, dataset: Dataset, *, samples: int = 128, batch_size: int = 32, histograms: bool = True
) -> Calibration:
    """Observe every activation of a graph that a plan may quantize, its inputs too, in one pass over the data.

    Memory does not grow with the number of samples.

    Args:
        graph: BatchNormalization is folded first; value names are those of the folded graph.
        dataset: ``samples`` of its samples are used, evenly spread.
        samples: at most this many.
        batch_size: samples a run at most, unless the graph fixes it.
        histograms: count bins too; without, only ``minmax`` and ``moving_average`` ranges can be had.

    Raises:
        DataError: the data set is empty, or smaller than the batch that the graph is fixed to.
        CandidateError: an activation is NaN or infinite (it is named), or the graph cannot run.
    """
    folded = fold_batch_norm(graph)
    observed = {str(value.name): Histogram() for value in observed_values(folded.model.graph)}
    aliases = _aliases(folded, observed)
    read = {str(node.inputs[0].name) for node in folded.model.graph if weight_value(node) and node.inputs[0]}
    means: dict[str, Any] = dict.fromkeys({aliases.get(name, name) for name in read} & observed.keys(), 0.0)
    seen = 0
    for arrays in calibration_batches(folded, [*observed], dataset, samples=samples, batch_size=batch_size):
        count = len(arrays[folded.input_names[0]])
        seen += count
        for name, histogram in observed.items():
            histogram.add(arrays[name], count=histograms)
            if not histogram.finite:
                raise CandidateError("calibrate", f"activation {name!r} is {_worst(histogram)}")
            if name in means:
                means[name] = means[name] + channel_means(arrays[name]) * count
    return Calibration(
        observed,
        means={name: np.asarray(total) / seen for name, total in means.items()},
        counted=histograms,
        aliases=aliases,
        samples=seen,
    )


def calibration_batches(
    graph: ModelGraph, names: list[str], dataset: Dataset, *, samples: int = 128, batch_size: int = 32
) -> Iterator[dict[str, NDArray[Any]]]:
    """The named values of a graph, its inputs among them where they are named, batch by batch.

    Args:
        graph: run as it is.
        names: of its values; held all at once, so batches are made smaller where they are large.
        dataset: ``samples`` of its samples are used, evenly spread.
        samples: at most this many.
        batch_size: samples a run at most, unless the graph fixes it.

    Raises:
        DataError: the data set is empty, or smaller than the batch that the graph is fixed to.
        CandidateError: the graph cannot run.
    """
    if len(dataset) == 0:
        raise DataError(f"Calibration needs data, but {dataset.name!r} is empty.")
    fetched = [name for name in names if name not in graph.input_names]
    picks = spread_picks(graph, len(dataset), samples)
    size = _batch_size(graph, names, batch_size, len(picks))
    session, _held = open_session(graph, fetched)
    for start in range(0, len(picks), size):
        inputs, _ = dataset.batch(picks[start : start + size])
        feed = dict(zip(graph.input_names, inputs, strict=True))
        yield {**feed, **run_session(session, fetched, feed)}


def _aliases(graph: ModelGraph, observed: Mapping[str, Histogram]) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for name, source in moved_from(graph.model.graph):
        aliases[name] = aliases.get(source, source)
    return {name: source for name, source in aliases.items() if source in observed}


def spread_picks(graph: ModelGraph, available: int, samples: int) -> NDArray[np.intp]:
    """Sample numbers, evenly spread; whole batches where the graph fixes their size."""
    count = max(1, min(samples, available))
    fixed = fixed_batch(graph)
    if fixed is not None:
        if available < fixed:
            raise DataError(f"The model takes batches of {fixed}, but there are only {available} samples.")
        count = max(1, count // fixed) * fixed
    return np.linspace(0, available - 1, count).astype(np.intp)


def _batch_size(graph: ModelGraph, names: list[str], batch_size: int, count: int) -> int:
    fixed = fixed_batch(graph)
    if fixed is not None:
        return fixed
    shapes = (graph.value_shape(name) or () for name in names)
    one = 4 * sum(math.prod(size or 1 for size in shape[1:]) for shape in shapes)
    return max(1, min(batch_size, count, BATCH_BYTES // max(1, one)))


def fixed_batch(graph: ModelGraph) -> int | None:
    """The batch that a graph is fixed to, or None."""
    if graph.batch_axis_dynamic:
        return None
    return next((spec.shape[0] for spec in graph.input_specs if spec.shape and spec.shape[0] is not None), None)


def run_session(session: onnxruntime.InferenceSession, names: list[str], feed: Mapping[str, Any]) -> dict[str, Any]:
    """The named values of one run.

    Raises:
        CandidateError: the graph cannot run.
    """
    try:
        outputs = session.run(names, feed) if names else []
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise CandidateError("calibrate", (str(error).splitlines() or ["?"])[0][:300]) from error
    return dict(zip(names, outputs, strict=True))


def open_session(graph: ModelGraph, names: list[str]) -> tuple[onnxruntime.InferenceSession, list[Any]]:
    """A session that gives all these values, and what must live as long: weights are read where they lie."""
    copy = graph.clone()
    outputs = copy.model.graph.outputs
    known = {value.name for value in outputs}
    outputs.extend(copy.values[name] for name in names if name not in known)
    skeleton, arrays = ModelGraph(copy.model).skeleton()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if values:
        options.add_external_initializers(list(arrays), values)
    try:
        session = onnxruntime.InferenceSession(skeleton, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise CandidateError("calibrate", (str(error).splitlines() or ["?"])[0][:300]) from error
    return session, values


def _worst(histogram: Histogram) -> str:
    return "NaN" if math.isnan(histogram.low) or math.isnan(histogram.high) else "infinite"
