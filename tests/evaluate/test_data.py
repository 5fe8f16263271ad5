"""Data specs."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from autocompress.core.errors import DataError, UnknownNameError, UserError
from autocompress.evaluate.data import example_inputs, load_data
from autocompress.zoo.demo import demo_folder

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = np.arange(20) % 4


def test_the_demo_is_split_labelled_and_normalized() -> None:
    bundle = load_data("demo")
    assert bundle.test is not None
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (4000, 2000, 2000)
    (images,), labels = bundle.validation.batch(range(500))
    assert (images.shape, images.dtype, bundle.metric) == ((500, 1, 28, 28), np.float32, "accuracy")
    assert abs(float(images.mean())) < 0.1
    assert labels is not None
    assert set(labels.tolist()) == set(range(10))
    assert bundle.digest == load_data("demo").digest


def test_example_inputs_are_a_small_batch() -> None:
    assert [a.shape for a in example_inputs(load_data("demo"))] == [(2, 1, 28, 28)]


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def test_fashion_mnist_validates_on_what_the_demo_network_never_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = np.load(demo_folder() / "fashion_mnist_subset.npz")["held_out"]
    unseen = np.zeros(60_000)
    unseen[held_out] = 1
    for part, labels in {"train": unseen, "t10k": np.zeros(10)}.items():
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((len(labels), 4, 4))))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    monkeypatch.setenv("AUTOCOMPRESS_FASHION_MNIST", str(tmp_path))
    bundle = load_data("fashion-mnist")
    assert bundle.test is not None
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (58_000, 2000, 10)
    for part, label in ((bundle.train, 0), (bundle.validation, 1)):
        labels = part.batch(range(len(part)))[1]
        assert labels is not None
        assert set(labels.tolist()) == {label}


def test_another_number_of_images_is_not_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((10, 4, 4))))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(10)))
    monkeypatch.setenv("AUTOCOMPRESS_FASHION_MNIST", str(tmp_path))
    with pytest.raises(DataError, match="holds 10 training images; Fashion-MNIST has 60,000"):
        load_data("fashion-mnist")


def test_a_missing_fashion_mnist_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_FASHION_MNIST", str(tmp_path))
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load_data("fashion-mnist")


def test_an_unsplit_npz_is_split_without_overlap(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.arange(20.0)[:, None], y=Y)
    bundle = load_data(f"npz:{tmp_path / 'd.npz'}")
    assert bundle.test is not None
    parts = [d.batch(range(len(d)))[0][0][:, 0].tolist() for d in (bundle.train, bundle.validation, bundle.test)]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(map(float, range(20)))


def test_npz_splits_are_used_where_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=X, x_val=X[:6], y_val=Y[:6])
    bundle = load_data(f"npz:{tmp_path / 'd.npz'}")
    assert (len(bundle.train), len(bundle.validation), bundle.test) == (20, 6, None)
    assert (bundle.train.labelled, bundle.labelled) == (False, True)


def test_npz_training_data_alone_are_split_in_two(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_train=X, x_test=X[:3])
    bundle = load_data(f"npz:{tmp_path / 'd.npz'}")
    assert bundle.test is not None
    assert (len(bundle.train), len(bundle.validation), len(bundle.test)) == (15, 5, 3)


def test_npz_holds_several_inputs_and_no_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x0=X, x1=np.zeros((20, 5), np.int64))
    bundle = load_data(f"npz:{tmp_path / 'd.npz'}")
    assert [a.shape for a in example_inputs(bundle)] == [(2, 3), (2, 5)]
    assert (bundle.labelled, bundle.metric) == (False, "fidelity")


def test_very_few_samples_are_not_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X[:3])
    bundle = load_data(f"npz:{tmp_path / 'd.npz'}")
    assert (len(bundle.train), len(bundle.validation), bundle.test) == (3, 3, None)


def test_a_pickled_npz_is_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="pickled objects"):
        load_data(f"npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no archive at all"])
def test_a_corrupt_npz_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'd.npz'}")
    assert "\n" not in str(caught.value)
    assert "d.npz" in str(caught.value)


def test_an_npz_without_x_lists_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=X)
    with pytest.raises(DataError, match=r"no array 'x'.*images"):
        load_data(f"npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize(
    ("spec", "kind", "problem"),
    [
        ("dmeo", UnknownNameError, "did you mean 'demo'"),
        ("fashionmnist", UnknownNameError, "did you mean 'fashion-mnist'"),
        ("calib.npz", DataError, "did you mean 'npz:calib.npz'"),
        ("npx:calib.npz", DataError, "Did you mean 'npz:calib.npz'"),
        ("npz:", DataError, "names no file"),
        ("npz:/nowhere.npz", DataError, "no file '/nowhere.npz'"),
        ("imagefolder:/nowhere", DataError, "no folder '/nowhere'"),
    ],
)
def test_wrong_specs_name_the_nearest_right_one(spec: str, kind: type[UserError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        load_data(spec)


def test_a_bare_array_file_says_how_to_write_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    with pytest.raises(DataError, match=r"numpy\.savez"):
        load_data(f"npz:{tmp_path / 'd.npy'}")
