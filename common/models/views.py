"""Views: which pictures of an image local training may see. View 0 is the image itself, the others are augmented.

Views are drawn once and their activations cached, since a picture made anew in every step would take the frozen
prefix with it. An image's views depend on the seed and its position among its client's images, on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.models.input_spec import InputSpec
from common.models.preprocess import preprocess

__all__ = ["PLAIN", "Views"]

_AREA = (0.5, 1.0)
_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Views:
    """How many there are, and how the augmented ones are drawn.

    An augmented view is a crop of random area (half of the image to all of it) and aspect ratio (3:4 to 4:3), resized
    to the backbone's input, and mirrored half of the time where that is asked for (as in Szegedy et al. 2015, with
    milder crops: our choice, for images that may be small).
    """

    augmented: int = 0
    """Views beside the image itself."""
    mirror: bool = True
    """Whether left and right may be exchanged; false for digits, letters and everything else that reads one way."""
    seed: int = 0

    @property
    def count(self) -> int:
        """Views of each image."""
        return 1 + self.augmented

    def draw(self, images: NDArray[np.uint8], first: int, view: int, spec: InputSpec) -> torch.Tensor:
        """One view of consecutive images, as network input.

        Parameters
        ----------
        images
            uint8 ``(n, height, width)`` or ``(n, height, width, 3)``.
        first
            Position of the first one among the client's images.
        view
            0 .. count - 1.
        spec
            The backbone's input.

        Returns
        -------
        float32 ``(n, channels, size, size)``, normalised.
        """
        if view == 0:
            return preprocess(images, spec)
        return torch.cat([self._augment(image, (first + i, view), spec) for i, image in enumerate(images)])

    def _augment(self, image: NDArray[np.uint8], key: tuple[int, int], spec: InputSpec) -> torch.Tensor:
        rng = np.random.default_rng((self.seed, *key))
        height, width = image.shape[:2]
        area, ratio = rng.uniform(*_AREA), np.exp(rng.uniform(*np.log(_ASPECT)))
        crop_height = min(height, max(1, round(height * float(np.sqrt(area / ratio)))))
        crop_width = min(width, max(1, round(width * float(np.sqrt(area * ratio)))))
        top, left = rng.integers(height - crop_height + 1), rng.integers(width - crop_width + 1)
        crop = image[top : top + crop_height, left : left + crop_width]
        if self.mirror and rng.random() < 0.5:
            crop = crop[:, ::-1]
        return preprocess(crop[None], spec)


PLAIN = Views()
"""The images as they are."""
