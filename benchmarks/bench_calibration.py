"""Calibration of ResNet-50 on 64 images, against one plain float32 inference of the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from common import interleaved, milliseconds, ratio, table
from numpy.typing import NDArray

from autocompress.compress.calibrate import calibrate
from autocompress.compress.fold import fold_batch_norm
from autocompress.core.protocols import Batch
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.graph.importing import load_model
from autocompress.measure.runtimes.session import PROVIDER
from autocompress.zoo.resnet50 import resnet50

SAMPLES = 64
ROUNDS = 5


class Counted(ArrayDataset):
    """Remembers how many samples were read, and in batches of how many."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        super().__init__([images])
        self.batches: list[int] = []

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> tuple[Batch, NDArray[np.int64] | None]:
        self.batches.append(len(indices))
        return super().batch(indices)


def main() -> None:
    graph = fold_batch_norm(load_model(resnet50(), (torch.zeros(2, 3, 224, 224),)))
    images = np.random.default_rng(0).standard_normal((SAMPLES, 3, 224, 224), np.float32)
    data = Counted(images)
    calibrate(graph, data, samples=SAMPLES)
    passes, size = sum(data.batches) / SAMPLES, max(data.batches)
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=[PROVIDER])
    name = graph.input_names[0]

    def plain() -> None:
        for start in range(0, SAMPLES, size):
            session.run(None, {name: images[start : start + size]})

    calls = {
        "plain inference": plain,
        "extremes": lambda: calibrate(graph, data, samples=SAMPLES, histograms=False),
        "histograms": lambda: calibrate(graph, data, samples=SAMPLES),
    }
    times = interleaved(calls, ROUNDS)
    rows = [(key, milliseconds(values), ratio(values, times["plain inference"])) for key, values in times.items()]
    table(f"Calibration of ResNet-50 on {SAMPLES} images", ("", "ms", "of plain inference"), rows)
    print(f"\npasses over the data: {passes:g}; batches of {size}")


if __name__ == "__main__":
    main()
