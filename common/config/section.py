"""What every section of a config is: a class of keys, and the choice that makes them matter.

Keys are kebab-case in ``pyproject.toml``, in ``--run-config`` and in ``--node-config``; attributes are the same names
in snake_case. Flower knows one flat table, so every key stands in one section only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConfigError

__all__ = ["Section", "Sections", "kebab", "nearest", "parse"]


def kebab(name: str) -> str:
    """The key of an attribute."""
    return name.replace("_", "-")


class Section(BaseModel):
    """Some keys of a config. They are in use where the value of another key brings their section."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, populate_by_name=True, protected_namespaces=()
    )

    title: ClassVar[str]
    """What the keys are about, for people."""
    under: ClassVar[str] = ""
    """The key whose value decides whether this section is in use; empty for sections that always are."""

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """Every section that some value of this one puts to use."""
        return ()

    def brings(self) -> Iterable[type[Section]]:
        """Those of `offers` that the values as they are put to use."""
        return ()


S = TypeVar("S", bound=Section)


class Sections(Protocol):
    """A parsed run config: its sections by their class."""

    def __getitem__(self, kind: type[S], /) -> S:
        """The section of this class; with its defaults, where it is not in use."""
        ...


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that a misspelt one is meant to be, or the empty string."""
    plain = {key.lower().replace("_", "-"): key for key in known}
    found = difflib.get_close_matches(name.lower().replace("_", "-"), plain, n=1)
    return plain[found[0]] if found else ""


def parse(model: type[S], values: Mapping[str, Any], where: str) -> S:
    """Parse the keys of one section.

    Raises
    ------
    ConfigError
        Naming every wrong key, its value and what is allowed.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, where) for item in error.errors())) from None


def _explain(item: Any, where: str) -> str:
    if not item["loc"]:  # said by a section as a whole, with the keys that it is about
        return f"{where}: {item['msg'].removeprefix('Value error, ')}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{where}: {kebab(str(item['loc'][0]))} = {item['input']!r}: {message}"
