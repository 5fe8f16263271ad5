"""The embedded demo."""

from __future__ import annotations

import numpy as np
import torch

from autocompress.zoo.demo import CLASSES, INPUT_SHAPE, demo_folder, demo_model


def test_the_demo_reaches_its_stated_accuracy_on_the_embedded_test_images() -> None:
    data = np.load(demo_folder() / "fashion_mnist_subset.npz")
    images = ((data["x_test"][:, None] / 255 - 0.2860) / 0.3530).astype(np.float32)
    with torch.no_grad():
        found = demo_model()(torch.from_numpy(images)).argmax(1).numpy()
    assert images.shape[1:] == INPUT_SHAPE
    assert (found == data["y_test"]).mean() > 0.94


def test_the_demo_is_in_evaluation_mode() -> None:
    assert not any(module.training for module in demo_model().modules())


def test_there_is_a_class_for_every_output() -> None:
    assert demo_model().fc.out_features == len(CLASSES)  # type: ignore[union-attr]
