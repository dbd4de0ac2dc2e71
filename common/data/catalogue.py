"""What the config values ``dataset`` and ``data`` can name; the paper's eight datasets on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["HUB", "SOURCES", "HubDataset"]


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset is and how it is laid out, as its dataset card on the hub says."""

    id: str
    """Repository on the hub; a folder of the same layout will do."""
    image: str
    """Column of the images."""
    label: str
    """Column of the classes."""
    side: int
    """Side of every image in pixels, which they are kept at; 0 where sizes differ, and the backbone's size is taken."""
    config: str | None = None
    """Configuration of the repository, None for its only one."""
    train: tuple[str, ...] = ("train",)
    """Splits that make up the training images."""
    test: tuple[str, ...] = ("test",)
    transposed: bool = False
    """Rows and columns are exchanged in the files."""


HUB: Mapping[str, HubDataset] = {
    "cifar10": HubDataset("uoft-cs/cifar10", "img", "label", 32),
    "cifar100": HubDataset("uoft-cs/cifar100", "img", "fine_label", 32),
    # The split `extra` is left out, as usual.
    "svhn": HubDataset("ufldl-stanford/svhn", "image", "label", 32, config="cropped_digits"),
    # The letters, 26 classes; stored mirrored and turned, as in NIST's files.
    "emnist": HubDataset("tanganke/emnist_letters", "image", "label", 28, transposed=True),
    "fashion-mnist": HubDataset("zalando-datasets/fashion_mnist", "image", "label", 28),
    # EuroSAT comes without splits. These, by Neumann et al. (arXiv 1911.06721), are fixed lists: 60, 20 and 20 %.
    "eurosat": HubDataset("timm/eurosat-rgb", "image", "label", 64, train=("train", "validation")),
    "food101": HubDataset("ethz/food101", "image", "label", 0, test=("validation",)),
    "stanford-cars": HubDataset("tanganke/stanford_cars", "image", "label", 0),
}

SOURCES = f"`digits` (built in), `npz:PATH`, `folder:PATH`, or from the hub {', '.join(f'`{name}`' for name in HUB)}"
"""For people who ask what there is."""
