"""What a method does on a client: answer the server's two questions, train and evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from flwr.app import RecordDict

from common.config.node import NodeConfig
from common.config.run import RunConfig
from common.errors import ConfigError, WrongModel
from common.messages import unpack_classes
from common.models.heads import FittedHead, Head, Statistics
from common.uniforms import stream_seed
from deltamask_client.answer import Answer
from deltamask_client.epochs import Fit
from deltamask_client.site import Site, load_site

__all__ = ["ClientMethod", "head_from"]


class ClientMethod(ABC):
    """One client's part of one run.

    Parameters
    ----------
    run, node
        Configs of the run and of this client.
    run_id
        Flower's number of the run; what is kept on the disk is kept by it.
    """

    name: ClassVar[str]
    """As in `common.methods`."""
    private: ClassVar[bool] = False
    """Whether what it sends is accounted for: nodes with a ``privacy-limit`` answer no other."""

    def __init__(self, run: RunConfig, node: NodeConfig, run_id: int) -> None:
        if node.privacy_limit is not None and not self.private:
            raise ConfigError(
                f"node config: privacy-limit = {node.privacy_limit}: this client answers runs with method = 'private' "
                f"only, and the run has method = {self.name!r}"
            )
        self.run, self.node, self.run_id = run, node, run_id

    @abstractmethod
    def holds(self) -> bytes | None:
        """8 bytes that name what this client has kept of the run; None if it has nothing."""

    def measure(self, kind: FittedHead, site: Site, features: torch.Tensor) -> Answer:
        """What the run's kind of head asks of this client's features, float32 ``(n, features)``.

        The metrics are those of the head that this client would have alone.
        """
        labels, classes = torch.from_numpy(site.labels).to(features.device), len(site.classes)
        statistics = kind.statistics(features, labels, classes)
        with torch.no_grad():
            logits = kind.combine([Statistics(statistics, len(labels))], classes, features.shape[1])(features)
            loss = torch.nn.functional.cross_entropy(logits, labels).item()
            accuracy = (logits.argmax(1) == labels).float().mean().item()
        return Answer(site, Fit(loss, accuracy), {"statistics": statistics})

    @abstractmethod
    def train(self, message: RecordDict) -> Answer:
        """Train from the global model, and say what came of it."""

    @abstractmethod
    def evaluate(self, message: RecordDict, server_round: int) -> Answer:
        """Tell how good the global model of a round is on the images that this client never trains on; 0: the head
        alone. `train` may be called with the same message afterwards.
        """

    def site(self, message: RecordDict, held: tuple[str, ...], validation: bool = False) -> Site:
        """Model and images of this client.

        Parameters
        ----------
        message
            With the class list, for clients that hold nothing.
        held
            The class list kept, if any.
        validation
            Take the images held out instead of those to train on.
        """
        return load_site(self.run, self.node, unpack_classes(message) or held, validation)

    def training_seed(self, server_round: int) -> int:
        """Seed of everything random in local training."""
        return stream_seed(self.run.rounds.seed, server_round, self.node.partition_id, "train")


def head_from(sent: bytes | None, held: Head | None, classes: int, features: int) -> Head:
    """The global head: as a message brings it, or the one held.

    Raises
    ------
    BadMetric
        If the one sent is damaged.
    WrongModel
        If there is neither.
    """
    if sent is not None:
        return Head.from_bytes(sent, classes, features)
    if held is None:
        raise WrongModel("the server sent no head, and this client holds none")
    return held
