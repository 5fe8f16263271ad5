"""Data sets with random access: arrays in memory, views of them, and whatever a torch Dataset indexes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError
from autocompress.core.protocols import Batch, Dataset

Indices = Sequence[int] | NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """``(x / 255 - mean) / std`` for bytes, channel by channel along axis 1.

    Args:
        mean: one value, or one a channel, in the scale of ``[0, 1]``.
        std: likewise.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.mean or not self.std or any(not np.isfinite(v) for v in self.mean) or min(self.std) <= 0:
            raise DataError(f"`mean` must be finite and `std` positive, but got {self.mean} and {self.std}.")

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalize ``(n, channels, ...)`` bytes."""
        channels = images.shape[1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(f"`{name}` has {len(values)} values, but the images have {channels} channels.")
        shape = (1, -1) + (1,) * (images.ndim - 2)
        scale = 1.0 / (255.0 * np.asarray(self.std)).reshape(shape)
        offset = (np.asarray(self.mean) / np.asarray(self.std)).reshape(shape)
        result = images.astype(np.float32)
        result *= scale.astype(np.float32)
        result -= offset.astype(np.float32)
        return result


class ArrayDataset:
    """Samples held as arrays.

    ``uint8`` arrays of four axes are images: they stay bytes in memory and are normalized batch by batch, by default
    to ``[0, 1]``. Other floats become ``float32``; integers and booleans stay as they are (token numbers, masks).

    Args:
        inputs: one array an input of the model, each ``(n, ...)``.
        labels: ``(n,)`` class numbers, or None.
        name: for messages.
        normalization: of the images.

    Raises:
        DataError: no samples, lengths that differ, NaN or infinity, or labels that are no class numbers.
    """

    def __init__(
        self,
        inputs: Sequence[Any],
        labels: Any = None,
        *,
        name: str = "data",
        normalization: Normalization | None = None,
    ) -> None:
        if not inputs:
            raise DataError(f"{name} has no inputs.")
        self.name = name
        self.inputs = tuple(_as_input(array, f"{name}: input {i}") for i, array in enumerate(inputs))
        self.labels = None if labels is None else as_labels(labels, name)
        self.labelled = self.labels is not None
        self._normalization = normalization or Normalization()
        lengths = [len(array) for array in self.inputs] + ([len(self.labels)] if self.labels is not None else [])
        if len(set(lengths)) > 1:
            raise DataError(f"{name}: inputs and labels must be equally long, but got lengths {lengths}.")
        if lengths[0] == 0:
            raise DataError(f"{name} is empty.")

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batch(self, indices: Indices) -> tuple[Batch, NDArray[Any] | None]:
        """Inputs, each ``(len(indices), ...)``, and labels ``(len(indices),)`` or None."""
        rows = np.asarray(indices, np.intp)
        inputs = tuple(self._normalization(a[rows]) if _is_image(a) else a[rows] for a in self.inputs)
        return inputs, None if self.labels is None else self.labels[rows]

    def digest(self) -> str:
        """16 hexadecimal digits of the samples and labels."""
        found = hashlib.sha256(repr(self._normalization).encode())
        for array in (*self.inputs, *(() if self.labels is None else (self.labels,))):
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]


class SubsetDataset:
    """Some samples of another data set.

    Args:
        dataset: the whole.
        indices: which samples, in this order.
        name: for messages; the whole's where None.
    """

    def __init__(self, dataset: Dataset, indices: Indices, name: str | None = None) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, np.intp)
        self.name = name or dataset.name
        self.labelled = dataset.labelled

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Indices) -> tuple[Batch, NDArray[Any] | None]:
        """Inputs and labels of ``indices`` into the subset."""
        return self.dataset.batch(self.indices[np.asarray(indices, np.intp)])

    def digest(self) -> str:
        """16 hexadecimal digits of the whole's digest and the indices."""
        return hashlib.sha256(dataset_digest(self.dataset).encode() + self.indices.tobytes()).hexdigest()[:16]


class UnlabelledDataset:
    """Another data set without its labels.

    Args:
        dataset: the labelled one.
    """

    labelled = False

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.name = dataset.name

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Indices) -> tuple[Batch, None]:
        """Inputs of ``indices``."""
        return self.dataset.batch(indices)[0], None

    def digest(self) -> str:
        """16 hexadecimal digits, other than those of the labelled set."""
        return hashlib.sha256(f"unlabelled {dataset_digest(self.dataset)}".encode()).hexdigest()[:16]


class IndexedDataset:
    """Adapts anything with ``__getitem__`` and ``__len__``, such as a map-style ``torch.utils.data.Dataset``.

    An item is an input, or a tuple of inputs; a whole number at the end of a tuple is the label. Random augmentation
    inside the items is the user's choice: nothing is cached.

    Args:
        items: the data set.
        name: for messages.
        labels: whether to use labels; found from the first item where None.

    Raises:
        DataError: empty, or items of a kind that cannot be read.
    """

    def __init__(self, items: Any, *, name: str = "data") -> None:
        self.name = name
        self._items = items
        if len(items) == 0:
            raise DataError(f"{name} is empty.")
        _, label = self._item(0)
        self.labelled = label is not None

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Indices) -> tuple[Batch, NDArray[Any] | None]:
        """Inputs stacked from the items at ``indices``, and their labels.

        Raises:
            DataError: items of different shapes, or NaN.
        """
        pairs = [self._item(int(i)) for i in indices]
        try:
            columns = [np.stack(column) for column in zip(*(inputs for inputs, _ in pairs), strict=True)]
        except ValueError as error:
            raise DataError(f"{self.name}: samples differ in shape: {error}.") from error
        arrays = tuple(_as_input(column, f"{self.name}: input {i}") for i, column in enumerate(columns))
        inputs = tuple(Normalization()(array) if _is_image(array) else array for array in arrays)
        return inputs, as_labels([label for _, label in pairs], self.name) if self.labelled else None

    def digest(self) -> str:
        """16 hexadecimal digits of the length and of up to 32 samples spread over the whole."""
        found = hashlib.sha256(str(len(self)).encode())
        for i in np.unique(np.linspace(0, len(self) - 1, 32).astype(int)):
            inputs, label = self._item(int(i))
            found.update(f"{label}".encode())
            for array in inputs:
                found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]

    def _item(self, index: int) -> tuple[list[NDArray[Any]], int | None]:
        item = self._items[index]
        if isinstance(item, dict | str | bytes):
            raise DataError(
                f"{self.name}: a sample must be an array or a tuple of arrays and a label, but got "
                f"{type(item).__name__}."
            )
        parts = list(item) if isinstance(item, tuple | list) else [item]
        label = None
        if len(parts) > 1:
            last = to_array(parts[-1])
            if last.size == 1 and last.ndim <= 1 and (last.dtype.kind in "iu" or last.dtype == bool):
                label = int(last.reshape(()))
                parts.pop()
        return [to_array(part) for part in parts], label


def subset(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """``n`` samples at random, always the same ones for a seed; the data set itself where it has no more."""
    if n >= len(dataset):
        return dataset
    order = np.random.default_rng(seed).permutation(len(dataset))
    return SubsetDataset(dataset, order[:n])


def dataset_digest(dataset: Dataset) -> str:
    """16 hexadecimal digits that change with the data; a foreign data set is judged by its first samples."""
    if isinstance(dataset, ArrayDataset | SubsetDataset | IndexedDataset) or hasattr(dataset, "digest"):
        return str(dataset.digest())
    found = hashlib.sha256(str(len(dataset)).encode())
    inputs, _ = dataset.batch(range(min(16, len(dataset))))
    for array in inputs:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def to_array(value: Any) -> NDArray[Any]:
    """A tensor, array, image or number as a numpy array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def as_labels(values: Any, name: str) -> NDArray[np.int64]:
    """Class numbers as ``(n,)`` ``int64``.

    Raises:
        DataError: other than whole numbers of at least 0 along one axis.
    """
    array = to_array(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: labels must have one axis, but got shape {array.shape}.")
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not (array == np.floor(array)).all()):
        raise DataError(f"{name}: labels must be whole class numbers, but got {array.dtype} values.")
    labels = array.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(f"{name}: labels must be at least 0, but got {labels.min()}.")
    return labels


def _is_image(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4


def _as_input(value: Any, what: str) -> NDArray[Any]:
    array = to_array(value)
    if array.ndim == 0:
        raise DataError(f"{what} must have a sample axis, but is one number.")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} must hold numbers, but its type is {array.dtype}.")
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise DataError(f"{what} has {bad} values that are NaN or infinite.")
    return array
