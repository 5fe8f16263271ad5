"""A model that ONNX Runtime has loaded, here or on a device: its inputs, and batches of any size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import CandidateError, DataError
from autocompress.core.protocols import Batch
from autocompress.measure.calm_levels import CalmLevels
from autocompress.measure.runtimes.tensors import TensorSpec, check_inputs, non_finite, random_sample


class LoadedModel(ABC):
    """What artifacts of ONNX Runtime share; a way to run one batch is all they add.

    Args:
        input_specs: of the model.
        output_names: of the model.
    """

    def __init__(self, input_specs: Sequence[TensorSpec], output_names: Sequence[str]) -> None:
        self.input_specs = tuple(input_specs)
        self.output_names = tuple(output_names)
        self.calm = CalmLevels()

    @property
    def fixed_batch(self) -> int | None:
        """The one batch size that the model takes, or None where it may vary."""
        sizes = {spec.shape[0] for spec in self.input_specs if spec.shape}
        return sizes.pop() if len(sizes) == 1 else None

    def run(self, inputs: Batch) -> list[NDArray[Any]]:
        """Outputs for one batch of any size.

        A model with a fixed batch runs slice by slice; the last slice is filled up with its last sample, whose
        outputs are dropped.

        Args:
            inputs: each ``(n, ...)``, in the order of the model's inputs.

        Returns:
            Outputs in the order of the model's outputs.

        Raises:
            DataError: an input of the wrong shape, type or number.
            CandidateError: the model fails while it runs.
        """
        fixed = self.fixed_batch
        arrays = check_inputs(self.input_specs, inputs, any_batch=fixed is not None)
        if fixed is None or all(len(array) == fixed for array in arrays):
            return self._run_once(arrays)
        return self._run_slices(arrays, fixed)

    def check_finite(self, outputs: Sequence[NDArray[Any]]) -> None:
        """Raise :class:`CandidateError` where an output holds NaN or infinity."""
        reason = non_finite(self.output_names, outputs)
        if reason is not None:
            raise CandidateError("run", reason)

    def sample(self, given: Batch | None = None) -> Batch:
        """Inputs for timing: the first sample of ``given``, or random but always the same ones.

        Where the model's batch is fixed, the sample is repeated to fill it.
        """
        batch = self.fixed_batch or 1
        if given is None:
            return random_sample(self.input_specs, batch=batch)
        first = tuple(np.repeat(np.asarray(value)[:1], batch, axis=0) for value in given)
        return tuple(check_inputs(self.input_specs, first))

    @abstractmethod
    def _run_once(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs for checked inputs of the model's own batch size."""

    def _run_slices(self, arrays: Sequence[NDArray[Any]], size: int) -> list[NDArray[Any]]:
        samples = {len(array) for array in arrays}
        if len(samples) != 1 or samples == {0}:
            raise DataError(f"Inputs must hold equally many samples, at least one, but got {sorted(samples)}.")
        total = samples.pop()
        parts: list[list[NDArray[Any]]] = []
        for start in range(0, total, size):
            rows = np.minimum(np.arange(start, start + size), total - 1)
            parts.append(self._run_once([array[rows] for array in arrays]))
        for name, output in zip(self.output_names, parts[0], strict=True):
            if output.ndim == 0 or len(output) != size:
                raise CandidateError("run", f"output {name!r} {output.shape} has no batch axis of {size} to split by")
        return [np.concatenate(outputs)[:total] for outputs in zip(*parts, strict=True)]
