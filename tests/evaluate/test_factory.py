"""Data from the user's own code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autocompress.core.errors import DataError, UserError
from autocompress.evaluate.data import DataBundle, load_data
from autocompress.evaluate.datasets import ArrayDataset
from autocompress.evaluate.factory import bundle_of

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = np.arange(20) % 4
TORCH = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Samples without random access."""

    def __iter__(self) -> Any:
        return iter(zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True))


@pytest.mark.parametrize(
    ("made", "labelled", "sizes"),
    [
        (X, False, (12, 4, 4)),
        ((X, Y), True, (12, 4, 4)),
        (((X, X), Y), True, (12, 4, 4)),
        ((torch.from_numpy(X), torch.from_numpy(Y)), True, (12, 4, 4)),
        (TORCH, True, (12, 4, 4)),
        (DataLoader(TORCH, batch_size=4), True, (12, 4, 4)),
        (DataLoader(Stream(), batch_size=4), True, (12, 4, 4)),
        ({"train": X, "val": (X[:5], Y[:5])}, True, (20, 5, None)),
        ((TORCH, DataLoader(TORCH)), True, (20, 20, None)),
        ((TORCH, TORCH, TORCH), True, (20, 20, 20)),
        (ArrayDataset([X]), False, (12, 4, 4)),
    ],
)
def test_what_a_factory_may_return(made: Any, labelled: bool, sizes: tuple[int | None, ...]) -> None:
    bundle = bundle_of(made, "made")
    assert bundle.labelled is labelled
    assert tuple(None if d is None else len(d) for d in (bundle.train, bundle.validation, bundle.test)) == sizes
    inputs, labels = bundle.validation.batch([0, 1])
    assert all(a.shape == (2, 3) and a.dtype == np.float32 for a in inputs)
    assert (labels is not None) is labelled


def test_a_bundle_is_taken_as_it_is() -> None:
    bundle = DataBundle(name="mine", train=ArrayDataset([X]), validation=ArrayDataset([X]))
    assert bundle_of(bundle, "made") is bundle


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (None, "but got NoneType"),
        ({}, "needs keys"),
        ({"training": X}, "needs keys"),
        ({"validation": X}, "no 'train'"),
        ([], "expected"),
        (X[:0], "empty"),
        ((X, Y[:3]), "lengths"),
        ([{"image": 1}], "expected"),
    ],
)
def test_anything_else_is_one_line(made: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        bundle_of(made, "made")
    assert "\n" not in str(caught.value)


def write(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return f"{folder / 'mine.py'}:data"


def test_a_factory_in_a_file_is_called(tmp_path: Path) -> None:
    bundle = load_data(write(tmp_path, "import numpy as np\ndef data():\n    return np.ones((10, 2)), np.arange(10)\n"))
    assert (bundle.labelled, len(bundle.train)) == (True, 6)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def data():\n    raise RuntimeError('first\\nsecond')\n", "raised RuntimeError: first$"),
        ("data = 3\n", "not a factory"),
        ("def date():\n    pass\n", "did you mean 'date'"),
        ("def data(:\n", "SyntaxError"),
    ],
)
def test_a_broken_factory_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load_data(write(tmp_path, text))
