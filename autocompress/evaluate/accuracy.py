"""Quality of an artifact: the very file that ships, run in the runtime that will run it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.binomial import wilson
from autocompress.core.errors import CandidateError, DataError
from autocompress.core.measurement import Measurement, Provenance
from autocompress.core.protocols import Artifact, Batch, Dataset, Runtime
from autocompress.evaluate.metrics import agreement, hits
from autocompress.measure.latency import runtime_title

#: Raw samples that a quality measurement carries: means over this many equal chunks.
CHUNKS = 20


class QualityEvaluator:
    """Scores artifacts on one data set: ``accuracy`` with labels, else ``fidelity`` to the uncompressed model.

    Args:
        runtime: that the artifacts run in; its description goes into the measurements.
        dataset: to score on.
        reference: the uncompressed model; needed for ``fidelity``. Its outputs are computed once and kept.
        batch_size: samples an inference.
        seed: of the order in which samples are taken, so that a small sample is a random one.

    Raises:
        DataError: the data has no samples, or no labels and no reference is given.
    """

    def __init__(
        self,
        runtime: Runtime,
        dataset: Dataset,
        reference: Artifact | None = None,
        *,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise DataError(f"{dataset.name} is empty.")
        if not dataset.labelled and reference is None:
            raise DataError(f"{dataset.name} has no labels, so the uncompressed model is needed to score fidelity.")
        self.dataset = dataset
        self._runtime = runtime
        self._reference = reference
        self._batch_size = batch_size
        self._order = np.random.default_rng(seed).permutation(len(dataset))
        self._reference_outputs: dict[int, list[NDArray[Any]]] = {}
        self._last: weakref.ref[Artifact] | None = None
        self._last_scores: dict[int, NDArray[np.float64]] = {}

    @property
    def metric(self) -> str:
        """``accuracy`` or ``fidelity``."""
        return "accuracy" if self.dataset.labelled else "fidelity"

    def score(self, artifact: Artifact, *, samples: int | None = None) -> Measurement:
        """Run the artifact over the data; batches that the same artifact ran in the last call are not run again.

        Args:
            artifact: loaded and ready.
            samples: how many samples; all where None. A smaller number takes a part of what a larger one takes.

        Returns:
            The metric with its Wilson interval at 95%; ``samples`` are means over up to 20 chunks.

        Raises:
            CandidateError: an output is NaN or infinite.
            DataError: labels or shapes do not fit the model.
        """
        if self._last is None or self._last() is not artifact:
            self._last, self._last_scores = weakref.ref(artifact), {}
        known = self._last_scores
        parts = []
        for start, count in self._batches(samples):
            if len(known.get(start, ())) < count:
                known[start] = self._scores(artifact, start, count)
            parts.append(known[start][:count])
        scores = np.concatenate(parts)
        value = float(scores.mean())
        description = dict(self._runtime.describe())
        return Measurement(
            metric=self.metric,
            value=value,
            unit="1",
            provenance=Provenance.MEASURED,
            interval=wilson(value, len(scores)),
            samples=tuple(float(chunk.mean()) for chunk in np.array_split(scores, min(CHUNKS, len(scores)))),
            runtime=runtime_title(description),
            fingerprint=str(description.get("fingerprint", "")),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            details={"n": len(scores), "dataset": self.dataset.name},
        )

    def _scores(self, artifact: Artifact, start: int, count: int) -> NDArray[np.float64]:
        """``(count,)`` scores of the samples from ``start`` on."""
        inputs, labels = self.dataset.batch(self._order[start : start + count])
        outputs = artifact.run(inputs)
        _check_finite(outputs)
        if labels is not None:
            return hits(outputs[0], labels)
        return agreement(outputs, self._reference_at(start, inputs))

    def _batches(self, samples: int | None) -> Iterator[tuple[int, int]]:
        """Where each batch starts, and how many samples it has."""
        n = len(self._order) if samples is None else min(samples, len(self._order))
        if n < 1:
            raise DataError(f"`samples` must be at least 1, but got {samples}.")
        for start in range(0, n, self._batch_size):
            yield start, min(self._batch_size, n - start)

    def _reference_at(self, start: int, inputs: Batch) -> list[NDArray[Any]]:
        """The reference's outputs for the batch at ``start``; a longer cached batch serves a shorter one."""
        n = len(inputs[0])
        cached = self._reference_outputs.get(start)
        if cached is None or len(cached[0]) < n:
            assert self._reference is not None
            cached = self._reference.run(inputs)
            _check_finite(cached)
            self._reference_outputs[start] = cached
        return [output[:n] for output in cached]


def _check_finite(outputs: list[NDArray[Any]]) -> None:
    for i, output in enumerate(outputs):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            bad = int(np.count_nonzero(~np.isfinite(output)))
            raise CandidateError("accuracy", f"output {i} has {bad} values that are NaN or infinite")
