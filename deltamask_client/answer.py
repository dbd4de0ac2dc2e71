"""What a client has to say after it trained or evaluated, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.messages import HELD_OUT
from common.models.accuracy import Scored
from common.models.class_figures import ClassFigures, class_figures
from deltamask_client.epochs import Fit
from deltamask_client.personal import Personal
from deltamask_client.site import Site

__all__ = ["Answer"]


@dataclass(frozen=True)
class Answer:
    """What is sent (nothing after an evaluation), and how well it went."""

    site: Site
    fit: Fit | None
    """None of methods that do not say, since it depends on the images."""
    parts: Mapping[str, bytes] = field(default_factory=dict)
    """By name, as the method's strategy expects them."""
    holds: bytes | None = None
    """8 bytes that name what the client has kept of the run."""
    personal: Personal | None = None
    """How good the trained model is on test images of the client's classes, where that was asked."""
    classes: ClassFigures | None = None
    """How well classes are told apart, after an evaluation. Counts by class stay here."""
    held_out: Answer | None = None
    """The evaluation that training began with, if it did with one."""

    @classmethod
    def of(cls, site: Site, scored: Scored, holds: bytes | None = None) -> Answer:
        """After an evaluation."""
        fit = Fit(scored.loss, scored.accuracy)
        return cls(site, fit, holds=holds, classes=class_figures(scored.confusion))

    def metrics(self, seconds: float) -> dict[str, float]:
        """As they travel, `common.messages.METRICS` and, where there are any, those of `common.messages.PERSONAL`,
        `common.messages.BALANCED` and `common.messages.HELD_OUT`.
        """
        personal, classes = self.personal, self.classes
        evaluated = {} if self.held_out is None else self.held_out.metrics(0)
        return {
            "examples": len(self.site.labels),
            **({} if self.fit is None else {"loss": self.fit.loss, "accuracy": self.fit.accuracy}),
            "seconds": seconds,
            "broken": self.site.broken,
            **({} if personal is None else {"personal": personal.accuracy, "tested": personal.images}),
            **({} if classes is None else {"balanced": classes.balanced_accuracy, "macro_f1": classes.macro_f1}),
            **{name: evaluated[name.removeprefix("held_out_")] for name in (HELD_OUT if evaluated else ())},
        }
