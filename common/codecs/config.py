"""The key that chooses a codec."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from common.codecs import CODECS, available_codecs
from common.config.section import Section

__all__ = ["CodecSection", "known_codec"]


def known_codec(name: str) -> str:
    """The name, if a codec has it; otherwise an error that pydantic shows."""
    if name not in CODECS:
        raise PydanticCustomError("codec", "choose one of {names}", {"names": ", ".join(available_codecs())})
    return name


class CodecSection(Section):
    """How updates travel."""

    title: ClassVar[str] = "Codec"
    under: ClassVar[str] = "method"

    codec: str = Field("exact", description="How updates travel; see common/codecs.")

    _known = field_validator("codec")(known_codec)

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Of every codec."""
        return [section for codec in CODECS.values() for section in codec.sections]

    def brings(self) -> Iterable[type[Section]]:
        """Of the codec."""
        return CODECS[self.codec].sections
