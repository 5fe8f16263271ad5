"""The samples that distillation trains on: the data, mirrored or mixed, each with its teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.core.errors import DataError, UnknownNameError, UserError
from autocompress.core.protocols import Dataset
from autocompress.graph.model_graph import ModelGraph

#: Grey, colour, colour with transparency: what is taken for an image.
_IMAGE_CHANNELS = (1, 3, 4)
AUGMENTATIONS = ("auto", "none", "mixup", "flip")
#: Teacher outputs past this many bytes are computed anew each time instead of being kept.
CACHE_BYTES = 1 << 30


class TeacherSamples:
    """A fixed pool of training samples; a teacher's outputs are computed when first needed and then kept.

    ``mixup`` (Zhang et al. 2018) replaces a sample by a convex combination of two: it asks nothing of the data but
    that it is numeric, and the teacher labels the result. ``flip`` adds every image mirrored left to right. Because the
    pool is fixed, all candidates of a search share one set of outputs.

    Args:
        teacher: the uncompressed graph's function: inputs to outputs.
        specs: the graph, for its inputs' types and shapes.
        dataset: its labels are not used.
        seed: of the pool and the order.
        augment: one of :data:`AUGMENTATIONS`; ``auto`` is ``flip`` where every input is images, else ``mixup`` where
            every input is float, else ``none``. The teacher labels what comes out, so a mirrored digit is no wrong one.
        copies: mixed copies of the data in the pool.
    """

    def __init__(
        self,
        teacher: Callable[[tuple[Tensor, ...]], list[Tensor]],
        specs: ModelGraph,
        dataset: Dataset,
        *,
        seed: int,
        augment: str,
        copies: int,
    ) -> None:
        if len(dataset) == 0:
            raise DataError(f"The data set {dataset.name!r} is empty.")
        if copies < 1:
            raise UserError(f"`copies` must be at least 1, but got {copies}.")
        self.augment = _resolved(augment, specs)
        self._teacher = teacher
        self._dataset = dataset
        self._seed = seed
        self._count = len(dataset)
        self._copies = {"none": 1, "flip": 2, "mixup": copies}[self.augment]
        self._order: tuple[int, NDArray[np.intp]] | None = None
        self._known = np.zeros(len(self), bool)
        self._outputs: list[Tensor] | None = None
        if self.augment == "mixup":
            rng = np.random.default_rng([seed, 1])
            self._partners = np.concatenate([rng.permutation(self._count) for _ in range(self._copies)])
            self._shares = rng.random(len(self), dtype=np.float32)

    def __len__(self) -> int:
        """Samples in the pool."""
        return self._count * self._copies

    def batch(self, step: int, size: int) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Inputs and teacher outputs of one step; which samples those are depends on the step and seed alone.

        Args:
            step: counted from 0.
            size: samples in a step.

        Returns:
            Inputs, each ``(size, ...)``, and outputs, each ``(size, ...)``.
        """
        places = self._places(step, size)
        inputs = self._inputs(places)
        return inputs, self._targets(places, inputs)

    def inputs(self, step: int, size: int) -> tuple[Tensor, ...]:
        """Inputs of one step alone; see :meth:`batch`."""
        return self._inputs(self._places(step, size))

    def _places(self, step: int, size: int) -> NDArray[np.intp]:
        return np.array([self._place(i) for i in range(step * size, (step + 1) * size)], np.intp)

    def _place(self, position: int) -> int:
        epoch, offset = divmod(position, len(self))
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, 0, epoch]).permutation(len(self)))
        return int(self._order[1][offset])

    def _inputs(self, places: NDArray[np.intp]) -> tuple[Tensor, ...]:
        inputs = self._read(places % self._count)
        if self.augment == "flip":
            mirrored = torch.from_numpy(places >= self._count)
            return tuple(torch.where(mirrored[:, None, None, None], x.flip(3), x) for x in inputs)
        if self.augment == "mixup":
            others, share = self._read(self._partners[places]), torch.from_numpy(self._shares[places])
            return tuple(
                torch.lerp(y, x, share.reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype))
                for x, y in zip(inputs, others, strict=True)
            )
        return inputs

    def _read(self, indices: NDArray[np.intp]) -> tuple[Tensor, ...]:
        arrays, _ = self._dataset.batch(indices)
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)

    def _targets(self, places: NDArray[np.intp], inputs: tuple[Tensor, ...]) -> list[Tensor]:
        missing = ~self._known[places]
        if self._outputs is not None and not missing.any():
            return [kept[places] for kept in self._outputs]
        computed = self._teacher(inputs)
        if self._outputs is None:
            row_bytes = sum(x[0].numel() * x.element_size() for x in computed)
            if row_bytes * len(self) > CACHE_BYTES:
                return computed
            self._outputs = [torch.empty(len(self), *x.shape[1:], dtype=x.dtype) for x in computed]
        for kept, new in zip(self._outputs, computed, strict=True):
            kept[places[missing]] = new[torch.from_numpy(missing)]
        self._known[places] = True
        return [kept[places] for kept in self._outputs]


def _resolved(augment: str, graph: ModelGraph) -> str:
    """The augmentation to use, checked against the inputs."""
    if augment not in AUGMENTATIONS:
        raise UnknownNameError("augmentation", augment, AUGMENTATIONS)
    floats = all(_is_float(spec.dtype) for spec in graph.input_specs)
    if augment == "auto":
        images = floats and all(len(s.shape) == 4 and s.shape[1] in _IMAGE_CHANNELS for s in graph.input_specs)
        return "flip" if images else "mixup" if floats else "none"
    if augment == "mixup" and not floats:
        raise UserError("`mixup` needs float inputs; use augment='none'.")
    if augment == "flip" and not all(len(spec.shape) == 4 for spec in graph.input_specs):
        raise UserError("`flip` needs images of shape (n, channels, height, width); use augment='none' or 'mixup'.")
    return augment


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f"
