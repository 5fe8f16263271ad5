"""How well losses on validation images picked in several ways stand for those on the rest of the 10,000 test images.

    python experiments/demo_model/representative.py RUN... > experiments/demo_model/results/representative.csv

The networks are those of the fronts of run folders whose search never saw a test image, where they lose up to 5 points.
Each way draws 2,000 images 200 times.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from subset import PER_CLASS, outputs, representative
from train import MEAN, STD, read_idx, stratified

from autocompress.zoo.demo import demo_folder

DRAWS = 200
MOST_LOST = 5.0
DATA = Path("/usr/share/datasets/fashion-mnist")


def right_only(
    labels: np.ndarray, logits: np.ndarray, per_class: int, rng: np.random.Generator, exclude: np.ndarray
) -> np.ndarray:
    """As often right as among all images, whichever of them: the same answers, as sure of each as chance has it."""
    by_chance = np.eye(10)[logits.argmax(1)] * (1 + rng.random((len(labels), 1)))
    return representative(labels, by_chance, per_class, rng, exclude)


def answers(path: Path, x: np.ndarray) -> np.ndarray:
    """Classes that an artifact gives."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: part})[0].argmax(1) for part in np.array_split(x, 20)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    args = parser.parse_args()
    images = {s: read_idx(DATA / f"{s}-images-idx3-ubyte.gz") for s in ("train", "t10k")}
    labels = {s: read_idx(DATA / f"{s}-labels-idx1-ubyte.gz") for s in ("train", "t10k")}
    package = np.load(demo_folder() / "fashion_mnist_subset.npz")
    held_out = package["held_out"]
    place = {image.tobytes(): index for index, image in enumerate(images["t10k"])}
    validation, test = (np.array([place[i.tobytes()] for i in package[f"x_{part}"]]) for part in ("validation", "test"))
    x, x_held = (
        ((part.astype(np.float32) / 255 - MEAN) / STD)[:, None] for part in (images["t10k"], images["train"][held_out])
    )
    logits = outputs(images["t10k"])
    whole = logits.argmax(1) == labels["t10k"]
    whole_held = outputs(images["train"][held_out]).argmax(1) == labels["train"][held_out]
    lost, lost_held = [], []
    for path in sorted(file for run in args.runs for file in run.glob("front/*/model.onnx")):
        right = answers(path, x) == labels["t10k"]
        if 100 * (whole.mean() - right.mean()) <= MOST_LOST:
            lost.append(whole.astype(int) - right.astype(int))
            held = answers(path, x_held) == labels["train"][held_out]
            lost_held.append(100 * (whole_held.mean() - held.mean()))
    table = np.array(lost)
    ways: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
        "by class": lambda rng: stratified(labels["t10k"], PER_CLASS, rng, test),
        "by class and right": lambda rng: right_only(labels["t10k"], logits, PER_CLASS, rng, test),
        "by class, right and how sure": lambda rng: representative(labels["t10k"], logits, PER_CLASS, rng, test),
    }
    out = csv.writer(sys.stdout)
    out.writerow(["images", "networks", "draw", "lost_more_than_on_the_rest"])

    def more(drawn: np.ndarray, rest: np.ndarray) -> float:
        return round(float(100 * (table[:, drawn].mean() - table[:, rest].mean())), 3)

    def rest(drawn: np.ndarray) -> np.ndarray:
        return np.setdiff1d(np.arange(table.shape[1]), drawn)

    out.writerow(["held-out training images", len(table), 0, round(float(np.mean(lost_held) - 100 * table.mean()), 3)])
    out.writerow(["the package's", len(table), 0, more(validation, rest(validation))])
    out.writerow(["the package's, against its test images", len(table), 0, more(validation, test)])
    for way, draw in ways.items():
        for number in range(DRAWS):
            drawn = draw(np.random.default_rng(number))
            out.writerow([way, len(table), number, more(drawn, rest(drawn))])


if __name__ == "__main__":
    main()
