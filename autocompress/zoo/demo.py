"""The embedded demo: ResNet-20 trained on Fashion-MNIST, and a subset of the data.

The weights come from ``experiments/demo_model/train.py`` (95.05% on the 10,000 test images). Fashion-MNIST is by
Zalando Research (Xiao, Rasul, Vollgraf 2017), MIT licence; see ``demo/LICENSE.fashion-mnist`` beside the data. Its
validation and test images are two parts of Fashion-MNIST's test images (``experiments/demo_model/subset.py``).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from torch import nn

from autocompress.core.errors import ModelError
from autocompress.zoo.resnet import resnet20

#: What one sample looks like, without the batch axis: grey channel, height, width.
INPUT_SHAPE = (1, 28, 28)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def demo_folder() -> Path:
    """Folder with the demo's weights and data."""
    return Path(str(files("autocompress.zoo"))) / "demo"


def demo_model() -> nn.Module:
    """The trained ResNet-20 in evaluation mode; takes ``(n, 1, 28, 28)`` float32, gives ``(n, 10)`` logits.

    Raises:
        ModelError: the weights are missing from this installation.
    """
    from safetensors.torch import load_file

    path = demo_folder() / "resnet20.safetensors"
    if not path.is_file():
        raise ModelError(f"The demo's weights {str(path)!r} are missing: install autocompress again.")
    model = resnet20(in_channels=INPUT_SHAPE[0], num_classes=len(CLASSES))
    model.load_state_dict(load_file(path))
    return model.eval()
