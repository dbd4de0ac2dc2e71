"""What a method says of itself to everything that is not the method: config, wire format, console, report, tools."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from common.config.section import Section, Sections
from common.wire import Header

__all__ = ["Method"]


class Method(ABC):
    """One algorithm, as both sides and people know it."""

    name: ClassVar[str]
    """Its value of the run key ``method``."""
    number: ClassVar[int]
    """In the header of its payloads; never reused."""
    title: ClassVar[str]
    """As its paper writes it."""
    summary: ClassVar[str]
    """What it does, in a few words."""
    sections: ClassVar[tuple[type[Section], ...]]
    """Sections of the run config that it reads, beside those that every run has."""
    forms: ClassVar[Mapping[str, str]]
    """The forms of the global model that are tested, with what people call them; the first is the one to use."""
    exports: ClassVar[tuple[str, ...]] = ()
    """Forms of the file that ``deltamask export`` makes of its model; the first is the default."""
    fits_head: ClassVar[bool] = False
    """Whether the head must be fitted to features, since training leaves it as it is."""

    def check(self, run: Sections) -> None:
        """Refuse values that contradict each other; raises ConfigError."""
        return

    @abstractmethod
    def coding(self, config: Mapping[str, Any]) -> str:
        """How the model travels, for people. Keys of the run config may be missing: another version may have written
        it.
        """

    def plain_fields(self, header: Header) -> dict[str, str] | None:
        """What a payload of plain numbers holds, by name, for people; None for one that a codec made."""
        return None

    def plain_values(self, payload: bytes, header: Header) -> NDArray[np.float32]:
        """The numbers of a payload of plain numbers; raises PayloadError."""
        raise NotImplementedError(f"payloads of {self.name} are made by codecs")
