"""How good whatever is in the backbone's tail is on the server's test images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from common.models.accuracy import Scored, score_images
from common.models.activations import Activations
from common.models.backbone import Backbone

__all__ = ["Evaluator"]


class Evaluator:
    """Test images as prefix activations, and the backbone's tail.

    Parameters
    ----------
    backbone
        The frozen network.
    activations, labels
        Prefix outputs and classes ``(n,)`` of the test images.
    batch_size
        Images in a forward pass.
    """

    def __init__(
        self, backbone: Backbone, activations: Activations, labels: NDArray[np.int64], batch_size: int
    ) -> None:
        self.backbone = backbone
        self._activations, self._labels, self._batch_size = activations, labels, batch_size

    def frozen(self, head: Callable[[torch.Tensor], torch.Tensor]) -> Scored:
        """The head on the pre-trained function (every mask bit 1)."""
        self.backbone.masks.unmask()
        return self.score(head)

    def multiplied(self, multiplier: NDArray[np.float32], head: Callable[[torch.Tensor], torch.Tensor]) -> Scored:
        """The frozen weights times a vector, float32 ``(d,)``."""
        self.backbone.masks.set_multiplier(torch.from_numpy(multiplier))
        return self.score(head)

    def score(self, head: Callable[[torch.Tensor], torch.Tensor]) -> Scored:
        """The tail as it is now, and a head from features to logits."""
        return score_images(self.backbone.tail, head, self._activations, self._labels, self._batch_size)
