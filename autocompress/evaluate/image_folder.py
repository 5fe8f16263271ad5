"""Images in folders: one folder a class, or a flat folder of images without labels.

``imagefolder:DIR?size=224&mean=0.485,0.456,0.406&std=0.229,0.224,0.225``

Options: ``size`` (images are cut square to it; without it all must be of one size), ``resize`` (their shorter side
before the cut; ``size`` where not given), ``mean`` and ``std`` of each channel in the scale of ``[0, 1]``, ``channels``
(3, or 1 for grey). ``DIR/train``, ``DIR/val`` (or ``validation``) and ``DIR/test`` are the splits where they are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from autocompress.core.errors import DataError, MissingExtraError, UnknownNameError
from autocompress.core.protocols import Batch, Dataset
from autocompress.evaluate.data import DataBundle, assemble
from autocompress.evaluate.datasets import Normalization

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "valid": "validation", "test": "test"}
#: Decoded images are kept in memory where all of them fit in this many bytes.
_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images become inputs; see the module."""

    size: int | None = None
    resize: int | None = None
    channels: int = 3
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"`channels` must be 1 or 3, but got {self.channels}.")
        for name in ("size", "resize"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"`{name}` must be at least 1, but got {value}.")
        if self.resize is not None and (self.size is None or self.resize < self.size):
            raise DataError(f"`resize` must be at least `size`, but got {self.resize} and {self.size}.")


class ImageFolderDataset:
    """Image files, decoded when they are asked for.

    Args:
        paths: of the images.
        labels: ``(n,)`` class numbers, or None.
        name: for messages.
        options: how they become inputs.
    """

    def __init__(
        self, paths: Sequence[Path], labels: NDArray[np.int64] | None, *, name: str, options: ImageOptions
    ) -> None:
        if not paths:
            raise DataError(f"{name} has no images ({', '.join(_SUFFIXES)}).")
        self.name = name
        self.labelled = labels is not None
        self._paths = list(paths)
        self._labels = labels
        self._options = options
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._decoded_bytes = 0

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> tuple[Batch, NDArray[Any] | None]:
        """``float32`` images ``(len(indices), channels, height, width)`` and labels ``(len(indices),)`` or None.

        Raises:
            DataError: an image cannot be decoded, or differs in size from the others.
        """
        images = [self._image(int(i)) for i in indices]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            listed = ", ".join(f"{s[2]}x{s[1]}" for s in sorted(shapes)[:3])
            raise DataError(f"{self.name}: images differ in size ({listed}); add ?size=N to cut them to one size.")
        inputs = self._options.normalization(np.stack(images))
        return (inputs,), None if self._labels is None else self._labels[np.asarray(indices, np.intp)]

    def digest(self) -> str:
        """16 hexadecimal digits of names, sizes, labels and options."""
        found = hashlib.sha256(repr(self._options).encode())
        for path in self._paths:
            found.update(f"{path.parent.name}/{path.name}:{path.stat().st_size}\n".encode())
        return found.hexdigest()[:16]

    def _image(self, index: int) -> NDArray[np.uint8]:
        image = self._decoded.get(index)
        if image is None:
            image = _decode(self._paths[index], self._options)
            if self._decoded_bytes + image.nbytes <= _CACHE_BYTES:
                self._decoded[index] = image
                self._decoded_bytes += image.nbytes
        return image


def load_image_folder(spec: str) -> DataBundle:
    """Read ``DIR`` or ``DIR?option=value&…``; see the module.

    Raises:
        DataError: no such folder, no images, an option that cannot be read, or a class that training does not have.
        MissingExtraError: Pillow is not installed.
    """
    place, _, query = spec.partition("?")
    name = f"imagefolder:{place}"
    options = _options(query)
    root = Path(place)
    if not root.is_dir():
        raise DataError(f"There is no folder {place!r}.")
    _pillow()
    splits = {_SPLITS[p.name]: p for p in sorted(root.iterdir()) if p.is_dir() and p.name in _SPLITS}
    classes: list[str] | None = None
    found: dict[str, Dataset] = {}
    if "train" not in splits:
        splits = {"": root}
    for split in ("", "train", "validation", "test"):
        if split in splits:
            here = _class_names(splits[split])
            if classes is not None and not set(here) <= set(classes):
                strange = sorted(set(here) - set(classes))[0]
                raise DataError(f"{name}: {split} has a class {strange!r} that train does not have.")
            classes = here if classes is None else classes
            found[split] = _read(splits[split], classes, f"{name} {split}".strip(), options)
    return assemble(found, name, "no images")


def _read(folder: Path, classes: Sequence[str], name: str, options: ImageOptions) -> ImageFolderDataset:
    if not classes:
        return ImageFolderDataset(_images(folder), None, name=name, options=options)
    groups = [_images(folder / c) if (folder / c).is_dir() else [] for c in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group in groups])
    return ImageFolderDataset([p for group in groups for p in group], labels, name=name, options=options)


def _class_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())


def _options(query: str) -> ImageOptions:
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = ("size", "resize", "channels", "mean", "std")
    for key in given:
        if key not in known:
            raise UnknownNameError("image option", key, known)
    numbers: dict[str, Any] = {k: _number(k, given[k]) for k in ("size", "resize", "channels") if k in given}
    spread: Mapping[str, Any] = {k: _numbers(k, given[k]) for k in ("mean", "std") if k in given}
    return ImageOptions(**numbers, normalization=Normalization(**spread))


def _number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"`{key}` must be a whole number, but got {text!r}.") from None


def _numbers(key: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"`{key}` must be numbers joined by commas, but got {text!r}.") from None


def _decode(path: Path, options: ImageOptions) -> NDArray[np.uint8]:
    """``(channels, height, width)`` bytes."""
    image_module = _pillow()
    try:
        with image_module.open(path) as file:
            image = file.convert("L" if options.channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"The image {str(path)!r} cannot be decoded: {error}.") from error
    if options.size is not None:
        shorter = options.resize or options.size
        scale = shorter / min(image.size)
        width, height = (max(shorter, round(side * scale)) for side in image.size)
        image = image.resize((width, height), image_module.Resampling.BILINEAR)
        left, top = (width - options.size) // 2, (height - options.size) // 2
        image = image.crop((left, top, left + options.size, top + options.size))
    array = np.asarray(image, np.uint8)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _pillow() -> Any:
    try:
        from PIL import Image  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtraError("Pillow is not installed: pip install 'autocompress[vision]'") from error
    return Image
