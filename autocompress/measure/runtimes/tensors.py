"""What a session wants and gives: input specs, samples that fit them, checks of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from autocompress.core.errors import DataError, ModelError
from autocompress.core.protocols import Batch

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    **{f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}").type for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, type and shape of an input or output; None is a size that may vary."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @classmethod
    def of(cls, argument: ort.NodeArg) -> TensorSpec:
        """Read one input or output of a session.

        Raises:
            ModelError: it is no tensor of numbers.
        """
        return cls.told(argument.name, argument.type, argument.shape)

    @classmethod
    def told(cls, name: str, kind: str, sizes: Sequence[Any]) -> TensorSpec:
        """From what a session tells, here or on a device.

        Args:
            name: of the input or output.
            kind: ONNX Runtime's word, such as ``tensor(float)``.
            sizes: whole numbers; whatever else is a size that may vary.

        Raises:
            ModelError: it is no tensor of numbers.
        """
        if kind not in _DTYPES:
            raise ModelError(f"{name!r} is a {kind}; only tensors of numbers can be run and timed.")
        shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in sizes)
        return cls(name=name, dtype=np.dtype(_DTYPES[kind]), shape=shape)

    def __str__(self) -> str:
        sizes = ", ".join("n" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} ({sizes}) {self.dtype}"

    def fits(self, array: NDArray[Any], *, any_batch: bool = False) -> bool:
        """Whether ``array`` has this rank and its fixed sizes; ``any_batch`` leaves the first one out."""
        if array.ndim != len(self.shape):
            return False
        pairs = list(zip(self.shape, array.shape, strict=True))
        return all(want is None or want == got for want, got in (pairs[1:] if any_batch else pairs))


def random_sample(specs: Sequence[TensorSpec], *, seed: int = 0, batch: int = 1) -> Batch:
    """Inputs that look like a sample: the same for the same specs and seed.

    Floats are standard normal. Integers are 0 or 1, which every table of embeddings and every mask takes. Sizes that
    may vary are ``batch`` on the first axis and 1 elsewhere.
    """
    rng = np.random.default_rng(seed)
    arrays: list[NDArray[Any]] = []
    for spec in specs:
        shape = tuple((batch if axis == 0 else 1) if size is None else size for axis, size in enumerate(spec.shape))
        kind = spec.dtype.kind
        values = rng.standard_normal(shape, dtype=np.float32) if kind == "f" else rng.integers(0, 2, size=shape)
        # `ascontiguousarray` would give a scalar an axis.
        arrays.append(np.asarray(values, dtype=spec.dtype, order="C"))
    return tuple(arrays)


def check_inputs(specs: Sequence[TensorSpec], inputs: Batch, *, any_batch: bool = False) -> list[NDArray[Any]]:
    """The inputs, contiguous and of the wanted types.

    Raises:
        DataError: too few or too many, or one of a rank or size that the model does not take.
    """
    if len(inputs) != len(specs):
        wanted = ", ".join(str(spec) for spec in specs)
        raise DataError(f"The model wants {len(specs)} input(s), {wanted}, but got {len(inputs)}.")
    arrays = []
    for spec, value in zip(specs, inputs, strict=True):
        array = np.asarray(value)
        if not spec.fits(array, any_batch=any_batch):
            raise DataError(f"The model wants {spec}, but got an array of shape {array.shape}.")
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise DataError(f"The model wants {spec}, but got {array.dtype}.")
        arrays.append(np.asarray(array, dtype=spec.dtype, order="C"))
    return arrays


def non_finite(names: Sequence[str], outputs: Sequence[NDArray[Any]]) -> str | None:
    """Say which output holds NaN or infinity and how many, or None if all are finite."""
    for name, array in zip(names, outputs, strict=True):
        if array.dtype.kind != "f":
            continue
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            what = "NaN" if np.isnan(array).any() else "infinity"
            return f"output {name!r} holds {what} ({bad} of {array.size} values are not finite)"
    return None
