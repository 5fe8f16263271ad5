"""Images in folders."""

import sys
from pathlib import Path

import numpy as np
import pytest

from autocompress.core.errors import DataError, MissingExtraError, UserError
from autocompress.evaluate.data import load_data


def image(path: Path, width: int = 8, height: int = 6, value: int = 100) -> None:
    pillow = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def folder(root: Path, split: str = "", classes: tuple[str, ...] = ("cat", "dog"), each: int = 5) -> None:
    for number, name in enumerate(classes):
        for i in range(each):
            image(root / split / name / f"{i}.png", value=50 * number)


def test_class_folders_are_labels(tmp_path: Path) -> None:
    folder(tmp_path)
    bundle = load_data(f"imagefolder:{tmp_path}")
    (images,), labels = bundle.train.batch(range(len(bundle.train)))
    assert (bundle.labelled, images.shape[1:]) == (True, (3, 6, 8))
    assert labels is not None
    np.testing.assert_allclose(images.max((1, 2, 3)), labels * 50 / 255, atol=1e-6)


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    for i in range(6):
        image(tmp_path / f"{i}.png")
    assert load_data(f"imagefolder:{tmp_path}").metric == "fidelity"


def test_split_folders_are_used(tmp_path: Path) -> None:
    folder(tmp_path, "train")
    folder(tmp_path, "val", each=2)
    bundle = load_data(f"imagefolder:{tmp_path}")
    assert (len(bundle.train), len(bundle.validation), bundle.test) == (10, 4, None)


def test_options_resize_cut_and_normalize(tmp_path: Path) -> None:
    folder(tmp_path)
    bundle = load_data(f"imagefolder:{tmp_path}?size=4&resize=5&channels=1&mean=0.5&std=0.25")
    (images,), _ = bundle.train.batch(range(3))
    assert images.shape == (3, 1, 4, 4)
    assert images.min() >= -2


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("siez=4", "did you mean 'size'"),
        ("size=big", "whole number"),
        ("size=8&resize=4", "at least `size`"),
        ("mean=a,b", "numbers joined by commas"),
        ("channels=2", "1 or 3"),
        ("std=0", "positive"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, query: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        load_data(f"imagefolder:{tmp_path}?{query}")


def test_images_of_two_sizes_want_a_size(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png", width=9)
    with pytest.raises(DataError, match=r"add \?size=N"):
        load_data(f"imagefolder:{tmp_path}").train.batch([0, 1])


def test_an_unknown_class_in_a_split_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "train")
    folder(tmp_path, "val", classes=("cow",))
    with pytest.raises(DataError, match="class 'cow'"):
        load_data(f"imagefolder:{tmp_path}")


def test_no_images_and_broken_images_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="no images"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "x" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png.*cannot be decoded"):
        load_data(f"imagefolder:{tmp_path}").train.batch([0])


def test_a_missing_pillow_says_which_extra_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"autocompress\[vision\]"):
        load_data(f"imagefolder:{tmp_path}")
