"""Data sets with random access."""

from typing import Any

import numpy as np
import pytest

from autocompress.core.errors import DataError
from autocompress.evaluate.datasets import (
    ArrayDataset,
    IndexedDataset,
    Normalization,
    SubsetDataset,
    dataset_digest,
    subset,
)


def test_images_stay_bytes_and_are_normalized_a_batch_at_a_time() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
    normalization = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    dataset = ArrayDataset([images], normalization=normalization)
    (batch,), labels = dataset.batch([4, 1])
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (normalization.mean, normalization.std))
    np.testing.assert_allclose(batch, (images[[4, 1]] / 255 - mean) / std, atol=1e-6)
    assert (dataset.inputs[0].dtype, batch.dtype, labels) == (np.uint8, np.float32, None)


def test_bytes_of_other_ranks_stay_as_they_are() -> None:
    (batch,), _ = ArrayDataset([np.full((3, 5), 200, np.uint8)]).batch([0])
    assert (batch.dtype, batch.max()) == (np.uint8, 200)


def test_doubles_become_float32_and_token_numbers_stay() -> None:
    (x, tokens), _ = ArrayDataset([np.ones((3, 2)), np.ones((3, 7), np.int64)]).batch([0, 1])
    assert (x.dtype, tokens.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("inputs", "labels", "problem"),
    [
        ([np.zeros((0, 3), np.float32)], None, "is empty"),
        ([], None, "no inputs"),
        ([np.zeros((4, 3))], np.zeros(5, int), r"lengths \[4, 5\]"),
        ([np.full((4, 3), np.nan)], None, "12 values that are NaN"),
        ([np.zeros((4, 3))], np.full(4, 0.5), "whole class numbers"),
        ([np.zeros((4, 3))], np.full(4, -1), "at least 0"),
        ([np.zeros((4, 3))], np.zeros((4, 2)), "one axis"),
        ([np.array(["a", "b"])], None, "hold numbers"),
    ],
)
def test_bad_arrays_are_refused(inputs: list[Any], labels: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        ArrayDataset(inputs, labels)


def test_normalization_of_the_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match="3 values, but the images have 1"):
        ArrayDataset([np.zeros((2, 1, 4, 4), np.uint8)], normalization=Normalization(mean=(0.0,) * 3)).batch([0])


def test_column_labels_are_flattened() -> None:
    _, labels = ArrayDataset([np.zeros((2, 1))], np.array([[3.0], [1.0]])).batch([0, 1])
    assert labels is not None
    assert labels.tolist() == [3, 1]


def test_a_subset_is_seeded_and_bounded() -> None:
    dataset = ArrayDataset([np.arange(50.0)[:, None]])
    first, again, other = (subset(dataset, 8, seed).batch(range(8))[0][0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert subset(dataset, 99) is dataset


def test_digests_follow_samples_labels_and_choice() -> None:
    x = np.arange(12.0).reshape(6, 2)
    plain = ArrayDataset([x])
    digests = {
        plain.digest(),
        ArrayDataset([x + 1]).digest(),
        ArrayDataset([x], np.zeros(6, int)).digest(),
        SubsetDataset(plain, [0, 1]).digest(),
        SubsetDataset(plain, [0, 2]).digest(),
    }
    assert len(digests) == 5
    assert ArrayDataset([x.copy()]).digest() == plain.digest()


class Items:
    """A map-style data set of images and labels."""

    def __init__(self, label: Any = 1) -> None:
        self.label = label

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return np.full((2, 3), index, np.float32), self.label


def test_items_are_stacked_and_their_last_number_is_the_label() -> None:
    dataset = IndexedDataset(Items())
    (batch,), labels = dataset.batch([3, 0])
    assert batch[:, 0, 0].tolist() == [3.0, 0.0]
    assert labels is not None
    assert labels.tolist() == [1, 1]
    assert dataset.labelled


def test_a_second_input_is_no_label() -> None:
    dataset = IndexedDataset(Items(label=np.zeros(4, np.int64)))
    inputs, labels = dataset.batch([0, 1])
    assert ([a.shape for a in inputs], labels) == ([(2, 2, 3), (2, 4)], None)


def test_items_of_different_shapes_are_refused() -> None:
    dataset = IndexedDataset([np.zeros(3), np.zeros(4)])
    with pytest.raises(DataError, match="differ in shape"):
        dataset.batch([0, 1])


class Foreign:
    """Another implementation of the Dataset protocol, without a digest."""

    name, labelled = "foreign", False

    def __len__(self) -> int:
        return 3

    def batch(self, indices: Any) -> Any:
        return (np.ones((len(indices), 2), np.float32),), None


def test_a_foreign_data_set_has_a_digest_too() -> None:
    assert len(dataset_digest(Foreign())) == 16
