"""Keys of the data, and of how it is divided among clients that bring none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from common.config.section import Section
from common.data.catalogue import SOURCES
from common.data.pixel_range import AUTO, PixelRange, known_pixel_range, read_pixel_range

__all__ = ["DataSection", "DirichletSection", "PathologicalSection", "PatienceSection"]


class DataSection(Section):
    """Which images, and who has which."""

    title: ClassVar[str] = "Data"

    dataset: str = Field(
        "digits",
        min_length=1,
        description=f"{SOURCES}. The server tests on its test images; clients without `data` share its training "
        "images.",
    )
    pixel_range: str = Field(
        AUTO,
        description="What is black and white in the image files of `dataset` that have more than 8 bits, such as "
        "`0..4095`; `auto` is what each file states, else the full range of its bits. Clients with `data` of their own "
        "say it in their node config.",
    )
    train_limit: int = Field(
        0, ge=0, description="Use only that many training images, the same number of each class; 0 is all."
    )
    test_limit: int = Field(
        0, ge=0, description="Use only that many test images, the same number of each class; 0 is all."
    )
    partitioner: Literal["iid", "dirichlet", "pathological"] = Field(
        "iid", description="How training images are divided among clients."
    )
    validation_fraction: float = Field(
        0.1,
        ge=0,
        le=0.9,
        description="Share of each client's images that it never trains on. By its accuracy on them, which is reported "
        "in every evaluated round, the best model of the run is kept; 0: the last one is.",
    )

    _known = field_validator("pixel_range")(known_pixel_range)

    @property
    def black_and_white(self) -> PixelRange | None:
        """pixel-range as numbers; None is ``auto``."""
        return read_pixel_range(self.pixel_range)

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Two of the partitioners have a parameter; only who holds images out can lose patience."""
        return DirichletSection, PathologicalSection, PatienceSection

    def brings(self) -> Iterable[type[Section]]:
        """The partitioner's, and patience's."""
        parameters: dict[str, type[Section]] = {
            "dirichlet": DirichletSection,
            "pathological": PathologicalSection,
        }
        chosen = parameters.get(self.partitioner)
        patience: list[type[Section]] = [PatienceSection] if self.validation_fraction else []
        return patience if chosen is None else [chosen, *patience]


class DirichletSection(Section):
    """Of the partitioner ``dirichlet``."""

    title: ClassVar[str] = "Partitioner `dirichlet`"
    under: ClassVar[str] = "partitioner"

    dirichlet_alpha: float = Field(1.0, gt=0, description="Concentration of `dirichlet`; small is skewed.")


class PathologicalSection(Section):
    """Of the partitioner ``pathological``."""

    title: ClassVar[str] = "Partitioner `pathological`"
    under: ClassVar[str] = "partitioner"

    classes_per_client: int = Field(2, ge=1, description="Classes each client holds under `pathological`.")


class PatienceSection(Section):
    """Of images held out."""

    title: ClassVar[str] = "Images held out"
    under: ClassVar[str] = "validation-fraction"

    patience: int = Field(
        0,
        ge=0,
        description="End the run after so many evaluations without a better model on the images held out; 0: never.",
    )
