"""The embedded backbone: a small ViT that we trained on printed letters.

It exists so that the application runs with no network and no download. The weights are ours: `pretrain_letters.py`
renders the 52 printed Latin letters from the fonts that Matplotlib ships and trains this network to name them. No digit
was ever shown to it, so the handwritten digits of scikit-learn are a genuine downstream task.

The file is installed as a data file of the environment (``<prefix>/share/deltamask``), because a Flower app bundle
carries no binary weights: a SuperNode and a simulation worker both find it in the environment they run in.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from common.errors import ModelError
from common.models.fit_weights import load_weights
from common.models.input_spec import InputSpec
from common.models.weight_files import DEFAULT, local_file, random_seed

__all__ = ["LETTERS", "build_letters", "build_letters_vit", "find_letters_weights"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
IMAGE_SIZE = 32
MEAN, STD = 0.16, 0.27
FILE_NAME = "letters_vit.safetensors"


def build_letters(weights: str, image_size: int) -> tuple[VisionTransformer, InputSpec]:
    """Build the network without its classifier.

    Parameters
    ----------
    weights
        ``default`` (the embedded file), ``random`` or ``random:SEED``, or the path of a file; a classifier in
        it is left out.
    image_size
        32, or 0.

    Raises
    ------
    ModelError
        If the size is another, the weights are missing or do not fit, or the seed is none.
    """
    if image_size not in (0, IMAGE_SIZE):
        raise ModelError(f"image-size = {image_size}: letters-vit takes {IMAGE_SIZE} (or 0)")
    vit = build_letters_vit()  # with its classifier, for which random numbers are drawn too
    vit.reset_classifier(0)
    if random_seed(weights) is None:
        path = find_letters_weights() if weights == DEFAULT else local_file(weights)
        if not path.is_file():
            raise ModelError(
                f"the embedded weights are not at {path}; install the project in this environment: pip install ."
            )
        load_weights(vit, path, "letters-vit", "head")
    return vit, InputSpec(1, IMAGE_SIZE, (MEAN,), (STD,))


def build_letters_vit(num_classes: int = len(LETTERS)) -> VisionTransformer:
    """Build the untrained network: 32 x 32 grayscale, 8 x 8 patches, 6 blocks of width 128, about 1.2 M parameters.

    Parameters
    ----------
    num_classes
        Outputs of the classifier; 0 for features of shape ``(n, 128)``.
    """
    return VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=8,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=128,
        depth=6,
        num_heads=4,
    )


def find_letters_weights() -> Path:
    """Path of the trained weights in this environment, or where they are expected when they are not there."""
    return Path(sysconfig.get_path("data")) / "share" / "deltamask" / FILE_NAME
