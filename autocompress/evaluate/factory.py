"""Data from the user's own code: whatever a factory returns becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autocompress.core.errors import AutocompressError, DataError, ModelError, nearest
from autocompress.core.protocols import Dataset
from autocompress.evaluate.data import DataBundle, assemble
from autocompress.evaluate.datasets import ArrayDataset, IndexedDataset, to_array
from autocompress.graph.factories import load_factory

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


def load_from_factory(spec: str, kinds: Sequence[str] = ()) -> DataBundle:
    """Call ``pkg.module:factory`` or ``file.py:factory`` and make a bundle of what it returns.

    Args:
        spec: the factory.
        kinds: prefixes that the user may have misspelt.

    Raises:
        DataError: it cannot be found, raises, or returns something else than :func:`bundle_of` reads.
    """
    try:
        factory = load_factory(spec, "data")
    except ModelError as error:
        near = nearest(spec.partition(":")[0], kinds)
        hint = f" Did you mean '{near}:{spec.partition(':')[2]}'?" if near else ""
        raise DataError(f"{error}{hint}") from error
    try:
        made = factory()
    except AutocompressError:
        raise
    except Exception as error:  # the user's factory may raise anything
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"The factory {spec!r} raised {type(error).__name__}: {first}") from error
    return bundle_of(made, spec)


def bundle_of(made: Any, name: str) -> DataBundle:
    """Make a bundle of what a factory returned.

    Args:
        made: a :class:`DataBundle`; one of the sources below; a dict of them by ``train``, ``validation``, ``test``; or
            two or three data sets or loaders in that order. A source is an array of inputs, ``(x, y)``,
            ``((x0, x1, …), y)``, a map-style data set, a data loader, or an
            object of :class:`~autocompress.core.protocols.Dataset`.
        name: of the bundle, for messages.

    Raises:
        DataError: it is something else, or empty.
    """
    if isinstance(made, DataBundle):
        return made
    if isinstance(made, Mapping):
        unknown = [key for key in made if key not in _SPLITS]
        if unknown or not made:
            raise DataError(f"{name}: a dict of data needs keys of {', '.join(_SPLITS)}, but got {list(made)}.")
        return assemble(
            {_SPLITS[k]: dataset_of(v, f"{name} {k}") for k, v in made.items()}, name, "no 'train' in the dict"
        )
    if isinstance(made, tuple | list) and len(made) in (2, 3) and all(_is_dataset(part) for part in made):
        splits = ("train", "validation", "test")
        parts = {split: dataset_of(part, f"{name} {split}") for split, part in zip(splits, made, strict=False)}
        return assemble(parts, name, "no training data")
    return assemble({"": dataset_of(made, name)}, name, "no data")


def dataset_of(source: Any, name: str) -> Dataset:
    """One data set of one source; see :func:`bundle_of`."""
    if callable(getattr(source, "batch", None)) and hasattr(source, "labelled"):
        if len(source) == 0:
            raise DataError(f"{name} is empty.")
        return source  # type: ignore[no-any-return]
    if isinstance(source, tuple | list):
        if len(source) != 2:
            raise DataError(f"{name}: expected (x, y), but got {len(source)} values.")
        inputs, labels = source
        several = isinstance(inputs, tuple | list) and all(hasattr(part, "shape") for part in inputs)
        return ArrayDataset(list(inputs) if several else [inputs], labels, name=name)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        return ArrayDataset([source], name=name)
    items = getattr(source, "dataset", source)
    if hasattr(items, "__getitem__") and hasattr(items, "__len__") and not isinstance(items, str | bytes):
        return IndexedDataset(items, name=name)
    if hasattr(source, "__iter__") and not isinstance(source, str | bytes):
        return _stacked(source, name)
    raise DataError(
        f"{name} must be arrays, (x, y), a data set, a loader, a dict of those or a DataBundle, "
        f"but got {type(source).__name__}."
    )


def _is_dataset(part: Any) -> bool:
    return (
        not isinstance(part, np.ndarray | tuple | list)
        and not hasattr(part, "detach")
        and (hasattr(part, "__getitem__") or hasattr(part, "__iter__") or hasattr(part, "batch"))
    )


def _stacked(batches: Any, name: str) -> ArrayDataset:
    """Read a loader without random access to its end and keep its batches in memory."""
    inputs: list[list[Any]] = []
    labels: list[Any] = []
    for batch in batches:
        parts = [to_array(part) for part in (batch if isinstance(batch, tuple | list) else [batch])]
        labelled = len(parts) > 1 and parts[-1].ndim == 1 and parts[-1].dtype.kind in "iu"
        if labelled:
            labels.append(parts.pop())
        inputs.append(parts)
    if not inputs:
        raise DataError(f"{name} is empty.")
    if len({len(parts) for parts in inputs}) > 1 or len(labels) not in (0, len(inputs)):
        raise DataError(f"{name}: batches differ in their number of inputs or in having labels.")
    columns = [np.concatenate(column) for column in zip(*inputs, strict=True)]
    return ArrayDataset(columns, np.concatenate(labels) if labels else None, name=name)
