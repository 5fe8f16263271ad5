"""Train the demo's ResNet-20 on Fashion-MNIST.

    python experiments/demo_model/train.py --data /usr/share/datasets/fashion-mnist --out OUT

2,000 images are taken out of the training images before training: `train_log.csv` has the accuracy on them after each
epoch, and they are the validation images of `--data fashion-mnist`. Writes `resnet20.safetensors`, `train_log.csv`,
`result.json`; `subset.py` cuts the images that the package holds.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SEED = 20261124
MEAN, STD = 0.2860, 0.3530
ROOT = Path(__file__).resolve().parents[2]


def resnet20() -> nn.Module:
    """The product's definition, loaded by path so that the trainer needs torch alone."""
    spec = importlib.util.spec_from_file_location("zoo_resnet", ROOT / "autocompress/zoo/resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.resnet20(in_channels=1)


def read_idx(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") as file:
        data = file.read()
    ndim = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def stratified(labels: np.ndarray, per_class: int, rng: np.random.Generator, exclude: np.ndarray) -> np.ndarray:
    """``per_class`` indices of each label, none of them in ``exclude``, shuffled."""
    allowed = np.setdiff1d(np.arange(len(labels)), exclude)
    chosen = [rng.choice(allowed[labels[allowed] == c], per_class, replace=False) for c in range(10)]
    return rng.permutation(np.concatenate(chosen))


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random flip, shift by up to two pixels, and a random erased square, on the device."""
    n, _, height, width = x.shape
    device = x.device
    flip = torch.rand(n, generator=generator, device=device) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    padded = nn.functional.pad(x, (2, 2, 2, 2), value=float(x.min()))
    dy = torch.randint(0, 5, (n, 1), generator=generator, device=device)
    dx = torch.randint(0, 5, (n, 1), generator=generator, device=device)
    rows = (torch.arange(height, device=device)[None] + dy)[:, :, None]
    cols = (torch.arange(width, device=device)[None] + dx)[:, None, :]
    x = padded[torch.arange(n, device=device)[:, None, None], 0, rows, cols][:, None]
    size = 8
    top = torch.randint(0, height - size, (n, 1, 1, 1), generator=generator, device=device)
    left = torch.randint(0, width - size, (n, 1, 1, 1), generator=generator, device=device)
    yy = torch.arange(height, device=device)[None, None, :, None]
    xx = torch.arange(width, device=device)[None, None, None, :]
    erased = (yy >= top) & (yy < top + size) & (xx >= left) & (xx < left + size)
    erased &= torch.rand(n, 1, 1, 1, generator=generator, device=device) < 0.25
    return x.masked_fill(erased, 0.0)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    hits = sum(int((model(bx).argmax(1) == by).sum()) for bx, by in zip(x.split(1000), y.split(1000), strict=True))
    return hits / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    images = {s: read_idx(args.data / f"{s}-images-idx3-ubyte.gz") for s in ("train", "t10k")}
    labels = {s: read_idx(args.data / f"{s}-labels-idx1-ubyte.gz") for s in ("train", "t10k")}

    rng = np.random.default_rng(SEED)
    validation = stratified(labels["train"], 200, rng, np.empty(0, int))
    stratified(labels["train"], 400, rng, validation)  # the training images of subset.py, which come first
    test = stratified(labels["t10k"], 200, rng, np.empty(0, int))

    def tensor(split: str, index: np.ndarray) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy((images[split][index].astype(np.float32) / 255 - MEAN) / STD)[:, None]
        return x.to(device), torch.from_numpy(labels[split][index].astype(np.int64)).to(device)

    rest = np.setdiff1d(np.arange(60_000), validation)
    x_train, y_train = tensor("train", rest)
    x_val, y_val = tensor("train", validation)
    x_test, y_test = tensor("t10k", np.arange(10_000))
    model = resnet20().to(device)
    steps = args.epochs * (len(y_train) // args.batch_size)
    decay = [p for p in model.parameters() if p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": 5e-4}, {"params": no_decay}], lr=args.lr, momentum=0.9, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator(device).manual_seed(SEED)
    started = time.time()
    with (args.out / "train_log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["epoch", "train_loss", "validation_accuracy", "seconds"])
        for epoch in range(args.epochs):
            model.train()
            order = torch.randperm(len(y_train), generator=generator, device=device)
            total = torch.zeros((), device=device)
            for index in order[: len(order) // args.batch_size * args.batch_size].split(args.batch_size):
                x, y = augment(x_train[index], generator), y_train[index]
                loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.05)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
            row = [
                epoch + 1,
                round(float(total) / (len(order) // args.batch_size), 4),
                accuracy(model, x_val, y_val),
                round(time.time() - started, 1),
            ]
            log.writerow(row)
            file.flush()
            print(*row, flush=True)

    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    from safetensors.torch import save_file

    save_file(state, str(args.out / "resnet20.safetensors"))
    test_index = torch.from_numpy(test).to(device)
    result = {
        "test_accuracy_10k": accuracy(model, x_test, y_test),
        "test_accuracy_subset_2k": accuracy(model, x_test[test_index], y_test[test_index]),
        "validation_accuracy_2k": accuracy(model, x_val, y_val),
        "train_images": len(y_train),
        "epochs": args.epochs,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "seconds": round(time.time() - started, 1),
        "seed": SEED,
    }
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
