"""Cut the demo's data subset: images that the package holds, and which training images its network never saw.

    python experiments/demo_model/subset.py --data /usr/share/datasets/fashion-mnist --out autocompress/zoo/demo

Training images are among those that `train.py` trained with. Validation and test images are two parts of the 10,000
test images. In the validation images the network is right in as many of each class as in all 10,000, and as sure: on
images where it happens to do worse than usual, whatever is compressed looks better than it is. Writes
`fashion_mnist_subset.npz`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from train import MEAN, SEED, STD, read_idx, stratified

from autocompress.zoo.demo import demo_model

PER_CLASS = 200


@torch.no_grad()
def outputs(images: np.ndarray) -> np.ndarray:
    """``(n, 10)`` logits of the trained network."""
    model, x = demo_model(), torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD)[:, None]
    return torch.cat([model(part) for part in x.split(1000)]).numpy()


def representative(
    labels: np.ndarray, logits: np.ndarray, per_class: int, rng: np.random.Generator, exclude: np.ndarray
) -> np.ndarray:
    """``per_class`` indices of each label, none in ``exclude``, shuffled.

    As often right as among all of them, and evenly spaced by how far the network's first answer is above its second.
    """
    right = logits.argmax(1) == labels
    first, second = -np.sort(-logits, axis=1)[:, :2].T
    sure = first - second
    allowed = np.setdiff1d(np.arange(len(labels)), exclude)
    wrong = np.array([per_class * (1 - right[labels == c].mean()) for c in range(10)])
    counts = np.floor(wrong).astype(int)
    # Classes with the largest remainders take one more, so that the sum is as near as it can be.
    counts[np.argsort(counts - wrong)[: round(wrong.sum()) - counts.sum()]] += 1
    chosen = []
    for c in range(10):
        for group, count in ((~right, counts[c]), (right, per_class - counts[c])):
            of_group = allowed[(labels[allowed] == c) & group[allowed]]
            of_group = of_group[np.argsort(sure[of_group], kind="stable")]
            if len(of_group) < count:
                raise ValueError(f"Class {c} has {len(of_group)} images to pick {count} from.")
            places = (np.arange(count) + rng.random()) * len(of_group) / max(1, count)
            chosen.append(of_group[places.astype(int)])
    return rng.permutation(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    images = {s: read_idx(args.data / f"{s}-images-idx3-ubyte.gz") for s in ("train", "t10k")}
    labels = {s: read_idx(args.data / f"{s}-labels-idx1-ubyte.gz") for s in ("train", "t10k")}
    # As train.py draws them.
    rng = np.random.default_rng(SEED)
    held_out = stratified(labels["train"], PER_CLASS, rng, np.empty(0, int))
    train = stratified(labels["train"], 2 * PER_CLASS, rng, held_out)
    test = stratified(labels["t10k"], PER_CLASS, rng, np.empty(0, int))
    logits = outputs(images["t10k"])
    validation = representative(labels["t10k"], logits, PER_CLASS, rng, test)
    np.savez_compressed(
        args.out / "fashion_mnist_subset.npz",
        x_train=images["train"][train], y_train=labels["train"][train],
        x_validation=images["t10k"][validation], y_validation=labels["t10k"][validation],
        x_test=images["t10k"][test], y_test=labels["t10k"][test],
        held_out=np.sort(held_out).astype(np.uint16),
    )  # fmt: skip
    right = logits.argmax(1) == labels["t10k"]
    for name, part in (("all 10,000", np.arange(10_000)), ("validation", validation), ("test", test)):
        print(f"{name}: {right[part].mean():.2%}")


if __name__ == "__main__":
    main()
