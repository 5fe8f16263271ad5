"""What to compress with: a data spec becomes train, validation and test sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError, UnknownNameError
from autocompress.core.protocols import Batch, Dataset
from autocompress.evaluate.datasets import (
    ArrayDataset,
    Normalization,
    SubsetDataset,
    UnlabelledDataset,
    dataset_digest,
    subset,
)
from autocompress.evaluate.idx import read_idx

__all__ = ["DATA_SPECS", "DataBundle", "example_inputs", "load_data", "subset"]

#: What the demo's network was trained with (experiments/demo_model).
FASHION_MNIST = Normalization(mean=(0.2860,), std=(0.3530,))
FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST_VARIABLE = "AUTOCOMPRESS_FASHION_MNIST"
_FASHION_TRAIN = 60_000
DATA_SPECS = ("demo", "fashion-mnist", "npz:FILE", "imagefolder:DIR", "pkg.module:factory", "file.py:factory")
#: Shares of train and validation where data come unsplit; the rest is the test set.
_SHARES = (0.6, 0.2)
_SPLIT_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataBundle:
    """One source of data, split.

    Args:
        name: the spec it came from.
        train: calibrates and heals; labels are not needed.
        validation: scores candidates.
        test: reported at the end, never searched on; None where there is none.
        digest: changes with the data.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            parts = [dataset_digest(d) for d in (self.train, self.validation, self.test) if d is not None]
            object.__setattr__(self, "digest", hashlib.sha256("".join(parts).encode()).hexdigest()[:16])

    @property
    def labelled(self) -> bool:
        """Whether the validation set has labels."""
        return self.validation.labelled

    @property
    def metric(self) -> str:
        """``accuracy`` with labels, else ``fidelity``."""
        return "accuracy" if self.labelled else "fidelity"

    def without_labels(self) -> DataBundle:
        """The same samples scored by ``fidelity``; training keeps its labels, which only importance reads."""
        test = None if self.test is None else UnlabelledDataset(self.test)
        return replace(self, validation=UnlabelledDataset(self.validation), test=test)


def load_data(spec: str) -> DataBundle:
    """Load what a data spec names.

    ``demo`` is the embedded subset of Fashion-MNIST and ``fashion-mnist`` the whole set; ``npz:FILE`` and
    ``imagefolder:DIR`` read files (see :func:`load_npz` and :mod:`autocompress.evaluate.image_folder`);
    ``pkg.module:factory`` and ``file.py:factory`` call the user's code (see
    :func:`autocompress.evaluate.factory.bundle_of`).

    Raises:
        DataError: missing, empty, unreadable or malformed; one line says what.
        UnknownNameError: a spec of no known kind; the nearest is named.
        MissingExtraError: ``imagefolder`` without Pillow.
    """
    kind, colon, rest = spec.partition(":")
    if spec in _NAMED:
        return _NAMED[spec]()
    if colon and kind in _FILES:
        if not rest:
            raise DataError(f"The data spec {spec!r} names no file; write {kind}:PATH.")
        return _FILES[kind](rest)
    if not colon:
        if spec.endswith(".npz"):
            raise DataError(f"Unknown data {spec!r}; did you mean 'npz:{spec}'?")
        if Path(spec).is_dir():
            raise DataError(f"Unknown data {spec!r}; did you mean 'imagefolder:{spec}'?")
        raise UnknownNameError("data", spec, DATA_SPECS)
    from autocompress.evaluate.factory import load_from_factory

    return load_from_factory(spec, kinds=tuple(_FILES))


def example_inputs(bundle: DataBundle, n: int = 2) -> Batch:
    """The first ``n`` training samples, each input ``(n, ...)``; fewer where there are fewer."""
    return bundle.train.batch(range(min(n, len(bundle.train))))[0]


def split(dataset: Dataset, name: str) -> DataBundle:
    """Split at random, always the same way: 60% train, 20% validation, 20% test.

    Fewer than five samples are too few to split: they are both train and validation.
    """
    n = len(dataset)
    if n < 5:
        return DataBundle(name=name, train=dataset, validation=dataset)
    order = np.random.default_rng(_SPLIT_SEED).permutation(n)
    first, second = (round(n * share) for share in np.cumsum(_SHARES))
    train, validation, test = (SubsetDataset(dataset, part) for part in np.split(order, [first, second]))
    return DataBundle(name=name, train=train, validation=validation, test=test)


def hold_out(dataset: Dataset, name: str, test: Dataset | None = None) -> DataBundle:
    """Hold a quarter of a training set out for validation, at random, always the same one."""
    n = len(dataset)
    if n < 4:
        return DataBundle(name=name, train=dataset, validation=dataset, test=test)
    order = np.random.default_rng(_SPLIT_SEED).permutation(n)
    train, validation = (SubsetDataset(dataset, part) for part in np.split(order, [n - n // 4]))
    return DataBundle(name=name, train=train, validation=validation, test=test)


def load_npz(path: str) -> DataBundle:
    """Read ``x`` (or ``x0``, ``x1``, … for several inputs) and optional ``y`` from an ``.npz`` file.

    Arrays of a split end in its name: ``x_train``, ``y_train``, ``x_validation`` (or ``x_val``), ``x_test``. Without
    ``x_validation`` a quarter of the training samples is held out; without any split the samples are split 60/20/20.
    ``uint8`` arrays of four axes ``(n, channels, height, width)`` are images and are divided by 255.
    """
    arrays = _read_npz(Path(path))
    name = f"npz:{path}"
    found: dict[str, Dataset] = {}
    for part, endings in {
        "": ("",),
        "train": ("_train",),
        "validation": ("_validation", "_val"),
        "test": ("_test",),
    }.items():
        for ending in endings:
            inputs = _inputs(arrays, ending)
            if inputs:
                found[part] = ArrayDataset(inputs, arrays.get(f"y{ending}"), name=f"{name}{ending}")
    return assemble(found, name, f"no array 'x' or 'x_train' (it has {', '.join(arrays) or 'none'})")


def assemble(found: Mapping[str, Dataset], name: str, otherwise: str) -> DataBundle:
    """Make a bundle of splits by name; ``""`` is an unsplit set.

    Args:
        found: ``train``, ``validation``, ``test`` or ``""`` to data set.
        name: of the bundle.
        otherwise: what is wrong where there is nothing to train with.
    """
    if "train" not in found:
        if "" not in found:
            raise DataError(f"{name}: {otherwise}.")
        if "validation" not in found and "test" not in found:
            return split(found[""], name)
    train = found.get("train") or found[""]
    if "validation" not in found:
        return hold_out(train, name, found.get("test"))
    return DataBundle(name=name, train=train, validation=found["validation"], test=found.get("test"))


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}.")
    try:
        # numpy leaves a file open that it opened itself and could not read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{str(path)!r} holds one array; write an .npz archive with numpy.savez(path, x=...).")
            return {key: archive[key] for key in archive.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{str(path)!r} holds pickled objects, which are never loaded; save plain arrays."
            ) from error
        raise DataError(f"{str(path)!r} cannot be read: {error}.") from error
    except (OSError, EOFError, KeyError, TypeError, BadZipFile) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{str(path)!r} cannot be read as an .npz archive: {first}.") from error


def _inputs(arrays: Mapping[str, NDArray[Any]], ending: str) -> list[NDArray[Any]]:
    if f"x{ending}" in arrays:
        return [arrays[f"x{ending}"]]
    several: list[NDArray[Any]] = []
    while f"x{len(several)}{ending}" in arrays:
        several.append(arrays[f"x{len(several)}{ending}"])
    return several


@cache
def _demo_arrays() -> dict[str, NDArray[Any]]:
    with as_file(files("autocompress.zoo") / "demo" / "fashion_mnist_subset.npz") as path:
        return _read_npz(path)


def _fashion(images: NDArray[Any], labels: NDArray[Any], name: str) -> ArrayDataset:
    return ArrayDataset([images[:, None]], labels, name=name, normalization=FASHION_MNIST)


def _demo() -> DataBundle:
    arrays = _demo_arrays()
    train, validation, test = (
        _fashion(arrays[f"x_{part}"], arrays[f"y_{part}"], f"demo {part}") for part in ("train", "validation", "test")
    )
    return DataBundle(name="demo", train=train, validation=validation, test=test)


def _fashion_mnist() -> DataBundle:
    """All of Fashion-MNIST; validation holds the training images that the demo's network never saw."""
    folder = Path(os.environ.get(FASHION_MNIST_VARIABLE) or FASHION_MNIST_FOLDER)
    arrays = {
        (part, kind): read_idx(_idx_file(folder, f"{part}-{kind}"))
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
    train, labels = arrays["train", "images-idx3-ubyte"], arrays["train", "labels-idx1-ubyte"]
    if len(train) != _FASHION_TRAIN:
        raise DataError(f"{str(folder)!r} holds {len(train):,} training images; Fashion-MNIST has {_FASHION_TRAIN:,}.")
    held = np.zeros(len(train), np.bool_)
    held[_demo_arrays()["held_out"]] = True
    return DataBundle(
        name="fashion-mnist",
        train=_fashion(train[~held], labels[~held], "fashion-mnist train"),
        validation=_fashion(train[held], labels[held], "fashion-mnist validation"),
        test=_fashion(arrays["t10k", "images-idx3-ubyte"], arrays["t10k", "labels-idx1-ubyte"], "fashion-mnist test"),
    )


def _idx_file(folder: Path, stem: str) -> Path:
    for path in (folder / f"{stem}.gz", folder / stem):
        if path.is_file():
            return path
    raise DataError(
        f"Fashion-MNIST is not in {str(folder)!r} (no {stem}.gz): apt-get install dataset-fashion-mnist, or set "
        f"{FASHION_MNIST_VARIABLE} to the folder that has it."
    )


def _image_folder(spec: str) -> DataBundle:
    from autocompress.evaluate.image_folder import load_image_folder

    return load_image_folder(spec)


_NAMED: dict[str, Callable[[], DataBundle]] = {"demo": _demo, "fashion-mnist": _fashion_mnist}
_FILES: dict[str, Callable[[str], DataBundle]] = {"npz": load_npz, "imagefolder": _image_folder}
