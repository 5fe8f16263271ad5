"""The embedded demo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autocompress.zoo.demo import CLASSES, INPUT_SHAPE, demo_folder, demo_model


@pytest.mark.parametrize(("part", "accuracy"), [("test", 0.9565), ("validation", 0.9505)])
def test_the_demo_reaches_its_stated_accuracy_on_the_embedded_images(part: str, accuracy: float) -> None:
    """On the validation images that of all 10,000 test images."""
    data = np.load(demo_folder() / "fashion_mnist_subset.npz")
    images = ((data[f"x_{part}"][:, None] / 255 - 0.2860) / 0.3530).astype(np.float32)
    with torch.no_grad():
        found = demo_model()(torch.from_numpy(images)).argmax(1).numpy()
    assert images.shape[1:] == INPUT_SHAPE
    # Images on an edge between classes may fall otherwise on another processor.
    assert (found == data[f"y_{part}"]).mean() == pytest.approx(accuracy, abs=0.0015)


def test_no_image_is_in_two_parts() -> None:
    data = np.load(demo_folder() / "fashion_mnist_subset.npz")
    images = [image.tobytes() for part in ("train", "validation", "test") for image in data[f"x_{part}"]]
    assert len(images) == 8000
    assert len(set(images)) > 7990, "Fashion-MNIST itself has a few images twice"
    parts = {part: {image.tobytes() for image in data[f"x_{part}"]} for part in ("train", "validation", "test")}
    assert not parts["validation"] & parts["test"]
    assert not parts["train"] & (parts["validation"] | parts["test"])
    for part, per_class in (("train", 400), ("validation", 200), ("test", 200)):
        assert np.bincount(data[f"y_{part}"]).tolist() == [per_class] * 10


def test_the_demo_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in demo_model().modules())


def test_there_is_a_class_for_every_output() -> None:
    assert demo_model().fc.out_features == len(CLASSES)  # type: ignore[union-attr]
