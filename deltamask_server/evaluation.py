"""Accuracy of the global model on the server's test images, in the three forms that a mask distribution can be used
in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from common.codecs import SharedState
from common.models import Activations, Backbone, Head, TailWeights, loss_and_accuracy
from common.models.sign_network import SignNetwork
from common.signs import as_floats
from common.theta import ONE, probabilities
from common.uniforms import SERVER_CLIENT

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
        self._backbone, self._activations, self._labels, self._batch_size = backbone, activations, labels, batch_size

    def linear_probe(self, head: Head) -> float:
        """Accuracy of the head on the pre-trained function (every mask bit 1)."""
        self._backbone.masks.unmask()
        return self._score(head)

    def mask_forms(self, theta: NDArray[np.uint16], head: Head, seed: int, server_round: int) -> dict[str, float]:
        """Accuracies of the weights times theta (``mean``, the posterior mean model), times one sampled mask
        (``sample``), and times [theta >= 1/2] (``threshold``).
        """
        sample = SharedState(theta, seed, server_round, SERVER_CLIENT).mask()
        forms = {"mean": probabilities(theta), "sample": sample, "threshold": theta >= ONE // 2}
        return {name: self._accuracy(torch.from_numpy(form.astype(np.float32)), head) for name, form in forms.items()}

    def weights(self, tail: NDArray[np.float32], head: Head) -> float:
        """Accuracy with other weights in the masked blocks (`common.models.TailWeights`), unmasked."""
        with TailWeights(self._backbone).borrowed(tail):
            return self._score(head)

    def signs(self, network: SignNetwork, head: Head, positive: NDArray[np.bool_]) -> float:
        """Accuracy with signs on what pruning has left of the backbone."""
        network.load(head, as_floats(positive))
        return self._score(network.logits)

    def _accuracy(self, multiplier: torch.Tensor, head: Head) -> float:
        self._backbone.masks.set_multiplier(multiplier)
        return self._score(head)

    def _score(self, head: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return loss_and_accuracy(self._backbone.tail, head, self._activations, self._labels, self._batch_size)[1]
