"""What a client has to say after it trained or evaluated, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deltamask_client.epochs import Fit
from deltamask_client.personal import Personal
from deltamask_client.site import Site

__all__ = ["Answer"]


@dataclass(frozen=True)
class Answer:
    """What is sent (nothing after an evaluation), and how well it went."""

    site: Site
    fit: Fit
    parts: Mapping[str, bytes] = field(default_factory=dict)
    """By name, as the method's strategy expects them."""
    holds: bytes | None = None
    """8 bytes that name what the client has kept of the run."""
    personal: Personal | None = None
    """How good the trained model is on test images of the client's classes, where that was asked."""

    def metrics(self, seconds: float) -> dict[str, float]:
        """As they travel, `common.messages.METRICS` and, where there are any, `common.messages.PERSONAL`."""
        personal = self.personal
        return {
            "examples": len(self.site.labels),
            "loss": self.fit.loss,
            "accuracy": self.fit.accuracy,
            "seconds": seconds,
            "broken": self.site.broken,
            **({} if personal is None else {"personal": personal.accuracy, "tested": personal.images}),
        }
