"""The run config: Flower's flat table, parsed once at the edge of each app into sections of typed, validated values.

The key ``method`` brings the sections of a method, ``codec`` those of a codec, and so on. A key that differs from its
default although nothing brings its section is an error: whoever set it expects something of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from common.config.section import Section, kebab, nearest, parse
from common.config.shared import CheckpointSection, EvaluationSection, LimitsSection, RoundsSection, TrainingSection
from common.data.config import DataSection
from common.errors import ConfigError
from common.methods import METHODS, Method
from common.models.config import BackboneSection
from common.models.heads import HEADS, HeadKind
from common.models.heads.config import HeadSection

__all__ = ["MethodSection", "RunConfig", "all_sections", "as_toml", "defaults", "parse_run_config"]

_WHERE = "run config"
S = TypeVar("S", bound=Section)


class MethodSection(Section):
    """The choice that most others hang on."""

    title: ClassVar[str] = "Method"

    method: str = Field(
        "deltamask",
        description="Algorithm: " + "; ".join(f"`{name}`, {method.summary}" for name, method in METHODS.items()) + ".",
    )

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS:
            raise PydanticCustomError("method", "choose one of {names}", {"names": ", ".join(METHODS)})
        return name

    @classmethod
    def offers(cls) -> Iterable[type[Section]]:
        """What any method reads."""
        return [section for method in METHODS.values() for section in method.sections]

    def brings(self) -> Iterable[type[Section]]:
        """What the method reads."""
        return METHODS[self.method].sections


_ALWAYS = (
    MethodSection,
    RoundsSection,
    BackboneSection,
    DataSection,
    TrainingSection,
    HeadSection,
    EvaluationSection,
    LimitsSection,
    CheckpointSection,
)


def all_sections() -> tuple[type[Section], ...]:
    """Every section of a run config, each behind the one whose choice brings it."""
    found: dict[type[Section], None] = {}

    def add(kinds: Iterable[type[Section]]) -> None:
        for kind in kinds:
            if kind not in found:
                found[kind] = None
                add(kind.offers())

    add(_ALWAYS)
    return tuple(found)


class RunConfig:
    """Everything that one run is defined by; the same on the server and on every client.

    ``config[Kind]`` is the section of a class. Equal configs are equal and have equal hashes.

    Parameters
    ----------
    values
        Keys that are to differ from their defaults, in snake_case.

    Raises
    ------
    ConfigError
        Naming every wrong key, its value and what is allowed.
    """

    def __init__(self, **values: Any) -> None:
        given = {kebab(name): value for name, value in values.items()}
        owners = {kebab(name): kind for kind in all_sections() for name in kind.model_fields}
        problems = [_unknown(key, value, owners) for key, value in given.items() if key not in owners]
        found: dict[type[Section], Section] = {}
        for kind in all_sections():
            try:
                found[kind] = parse(kind, {key: given[key] for key in given if owners.get(key) is kind}, _WHERE)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))
        self._sections = found
        unused = set(found) - self.in_use()
        problems = [self._useless(kind, name) for kind in found if kind in unused for name in _changed(found[kind])]
        if problems:
            raise ConfigError("\n".join(problems))
        if self.method.fits_head and not self.head_kind.fitted:
            fitted = ", ".join(name for name, kind in HEADS.items() if kind.fitted)
            others = ", ".join(name for name, method in METHODS.items() if not method.fits_head)
            raise ConfigError(
                f"{_WHERE}: head = {self.head_kind.name!r}: {self.method.name} leaves the head as it is; choose one "
                f"that is fitted ({fitted}), or another method ({others})"
            )
        self.method.check(self)

    def __getitem__(self, kind: type[S], /) -> S:
        """The section of this class; with its defaults, where nothing brings it."""
        section = self._sections[kind]
        assert isinstance(section, kind)
        return section

    def __eq__(self, other: object) -> bool:
        """Whether every key has the same value."""
        return isinstance(other, RunConfig) and self._sections == other._sections

    def __hash__(self) -> int:
        """Of the values: configs are keys of caches within a process."""
        return hash(tuple(self._sections.values()))

    @cached_property
    def method(self) -> Method:
        """What the key ``method`` names."""
        return METHODS[self[MethodSection].method]

    @cached_property
    def head_kind(self) -> HeadKind:
        """What the key ``head`` names."""
        return HEADS[self[HeadSection].head].from_config(self)

    @property
    def rounds(self) -> RoundsSection:
        """How long the run is, and with whom."""
        return self[RoundsSection]

    @property
    def backbone(self) -> BackboneSection:
        """The frozen network."""
        return self[BackboneSection]

    @property
    def data(self) -> DataSection:
        """The images."""
        return self[DataSection]

    @property
    def training(self) -> TrainingSection:
        """How clients train."""
        return self[TrainingSection]

    @property
    def evaluation(self) -> EvaluationSection:
        """When the model is tested."""
        return self[EvaluationSection]

    def evaluates(self, server_round: int) -> bool:
        """Whether the model is tested after a round."""
        return server_round % self.evaluation.eval_every == 0 or server_round == self.rounds.num_server_rounds

    def as_dict(self) -> dict[str, Any]:
        """Every key with its value, as Flower's table has them."""
        return {key: value for section in self._sections.values() for key, value in _items(section)}

    def replace(self, **values: Any) -> RunConfig:
        """The same with other values of some keys, in snake_case; errors as when it is made."""
        initial = defaults()
        changed = {key.replace("-", "_"): value for key, value in self.as_dict().items() if value != initial[key]}
        return RunConfig(**(changed | values))

    def in_use(self) -> set[type[Section]]:
        """The sections that the values of this config bring."""
        found: set[type[Section]] = set()

        def add(kinds: Iterable[type[Section]]) -> None:
            for kind in kinds:
                if kind not in found:
                    found.add(kind)
                    add(self._sections[kind].brings())

        add(_ALWAYS)
        return found

    def _useless(self, kind: type[Section], name: str) -> str:
        """Names a key that has no effect, and the choice by which it has none."""
        owners = {kebab(field): section for section in self._sections for field in section.model_fields}
        in_use, chooser = self.in_use(), kind.under
        while owners[chooser] not in in_use:
            chooser = owners[chooser].under
        values = self.as_dict()
        hint = f"; it is a key of {_methods_with(kind)}" if chooser == "method" else ""
        return f"{_WHERE}: {name} = {values[name]!r} has no effect under {chooser} = {values[chooser]!r}{hint}"


def defaults() -> dict[str, Any]:
    """Every key with its default, as the table in pyproject.toml has them."""
    return {key: value for kind in all_sections() for key, value in _items(kind())}


def as_toml(values: Mapping[str, Any]) -> str:
    """Keys and their values as a file for ``--run-config``."""
    # JSON's strings, numbers and booleans are TOML's too, but for pairs of surrogates.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def parse_run_config(values: Mapping[str, Any]) -> RunConfig:
    """Parse Flower's run config.

    Raises
    ------
    ConfigError
        Naming every wrong key, its value and what is allowed; and every key that has no effect, with the choice by
        which it has none.
    """
    return RunConfig(**values)


def _methods_with(kind: type[Section]) -> str:
    """Names of the methods that may read a section."""

    def reach(kinds: Iterable[type[Section]]) -> set[type[Section]]:
        return {found for each in kinds for found in (each, *reach(each.offers()))}

    return " and ".join(name for name, method in METHODS.items() if kind in reach(method.sections))


def _items(section: Section) -> Iterable[tuple[str, Any]]:
    return section.model_dump(by_alias=True).items()


def _changed(section: Section) -> list[str]:
    initial = dict(_items(type(section)()))
    return [key for key, value in _items(section) if value != initial[key]]


def _unknown(key: str, value: Any, known: Iterable[str]) -> str:
    meant = nearest(key, known)
    hint = f"; do you mean {meant}?" if meant else f"; known keys: {', '.join(known)}"
    return f"{_WHERE}: {key} = {value!r}: there is no such key{hint}"
