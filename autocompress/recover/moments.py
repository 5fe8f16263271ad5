"""Label-free correction of layers that no BatchNormalization follows: outputs get back their mean and variance.

Pruning moves what each channel gives on average and how far it spreads. BatchNormalization takes that back once its
statistics are new; a file whose BatchNormalization is folded has none left. So one is put behind each layer, with the
uncompressed network's standard deviation and mean as its scale and shift, re-estimated and folded again: the layer's
weight and bias then give every channel the first two moments it had. Bias correction (Nagel et al. 2019, section 4.2)
is its first half, for the error of quantization.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from autocompress.compress.calibrate import calibration_batches
from autocompress.compress.edit import Editor
from autocompress.compress.fold import fold_batch_norm, foldable
from autocompress.core.protocols import Dataset
from autocompress.graph.layers import weight_value
from autocompress.graph.model_graph import ModelGraph
from autocompress.recover.batch_norm import reestimate_batch_norm
from autocompress.recover.features import Kept

_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Of a layer's output over data: ``(channels,)`` each."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def output_moments(graph: ModelGraph, dataset: Dataset, *, samples: int = 512) -> dict[str, Moments]:
    """Value name to moments of its channels, for what layers write without a BatchNormalization behind.

    Args:
        graph: uncompressed.
        dataset: its labels are not used.
        samples: at most this many, spread evenly over the data.

    Raises:
        DataError: the data set is empty, or smaller than the batch that the graph is fixed to.
        CandidateError: the graph cannot run.
    """
    names = [str(value.name) for value in _uncorrected(graph)]
    if not names:
        return {}
    sums: dict[str, list[Any]] = {name: [0, 0.0, 0.0] for name in names}
    for arrays in calibration_batches(graph, names, dataset, samples=samples):
        for name in names:
            # Channels are the second axis of a convolution's output and of a Gemm's.
            rows = np.moveaxis(arrays[name], 1, -1).reshape(-1, arrays[name].shape[1]).astype(np.float64)
            found = sums[name]
            found[0] += len(rows)
            found[1] = found[1] + rows.sum(0)
            found[2] = found[2] + np.square(rows).sum(0)
    means = {name: first / count for name, (count, first, _) in sums.items()}
    return {
        name: Moments(mean=means[name], variance=np.maximum(second / count - means[name] ** 2, 0.0))
        for name, (count, _, second) in sums.items()
    }


def match_moments(
    graph: ModelGraph, wanted: Mapping[str, Moments], dataset: Dataset, kept: Kept, *, samples: int = 512
) -> ModelGraph:
    """Give the outputs of layers the moments that they had before pruning, and BatchNormalization new statistics.

    All in one pass over the data; each layer is corrected behind those before it.

    Args:
        graph: after pruning.
        wanted: of the uncompressed graph, as :func:`output_moments` gives them.
        dataset: the same data.
        kept: value name to axis to the entries of the uncompressed graph that stay.
        samples: as many as ``wanted`` was measured on.

    Returns:
        A graph of the same structure.

    Raises:
        CandidateError: the statistics are not finite.
        DataError: there is no data.
    """
    copy = graph.clone()
    editor = Editor(copy.model.graph)
    added = [
        _normalized(value, moments, editor)
        for value in list(_uncorrected(copy))
        if (moments := _kept_moments(value, wanted, kept)) is not None
    ]
    if not added:
        return reestimate_batch_norm(graph, dataset, samples=samples)
    return fold_batch_norm(reestimate_batch_norm(ModelGraph(copy.model), dataset, samples=samples), only=added)


def _uncorrected(graph: ModelGraph) -> Iterable[ir.Value]:
    """Outputs of layers that can take a correction in, and have no BatchNormalization behind that does it."""
    for node in graph.model.graph:
        if weight_value(node) is None or not foldable(node):
            continue
        value = node.outputs[0]
        if not any(use.node.op_type == "BatchNormalization" for use in value.uses()):
            yield value


def _kept_moments(value: ir.Value, wanted: Mapping[str, Moments], kept: Kept) -> Moments | None:
    found = wanted.get(str(value.name))
    channels = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    if found is None:
        return None
    entries = kept.get(str(value.name), {}).get(1)
    if entries is not None:
        found = Moments(mean=found.mean[entries], variance=found.variance[entries])
    return found if channels == len(found.mean) else None


def _normalized(value: ir.Value, moments: Moments, editor: Editor) -> str:
    """Put a BatchNormalization behind a value, which takes over its name; the new node's name."""
    name = str(value.name)
    scale = np.sqrt(moments.variance + _EPSILON)
    parts = (("scale", scale), ("shift", moments.mean), ("mean", moments.mean), ("var", moments.variance))
    constants = [editor.array(array.astype(np.float32), f"{name}_{part}") for part, array in parts]
    readers = [use.node for use in value.uses()]
    made = editor.after(value, "BatchNormalization", [value, *constants], f"{name}_matched", ir.DataType.FLOAT)
    editor.replace(value, made, readers, output=True)
    if made.name != name:
        value.name = editor.fresh(f"{name}_inner")
        made.name = name
    producer = made.producer()
    assert producer is not None
    return str(producer.name)
