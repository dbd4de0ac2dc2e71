"""Numbers and a run's settings as a person reads them."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from common.config.run import defaults
from common.methods import METHODS, Method

__all__ = [
    "NONE",
    "amount",
    "changed_settings",
    "coding",
    "duration",
    "method_name",
    "method_of_run",
    "percent",
    "reasons",
    "run_config_option",
    "times_less",
]

NONE = "\N{EN DASH}"
"""In the place of a figure that there is not."""


def method_of_run(config: Mapping[str, Any]) -> Method | None:
    """The method of a run; None if this version does not know it."""
    return METHODS.get(str(config.get("method", "deltamask")))


def method_name(config: Mapping[str, Any]) -> str:
    """The method as its paper writes it."""
    method = method_of_run(config)
    return str(config.get("method")) if method is None else method.title


def coding(config: Mapping[str, Any]) -> str:
    """How the model travels."""
    method = method_of_run(config)
    return "?" if method is None else method.coding(config)


def amount(size: float) -> str:
    """Bytes with three digits or so, in decimal units."""
    for unit, factor, places in (("GB", 1e9, 2), ("MB", 1e6, 2), ("kB", 1e3, 1)):
        if size >= factor:
            return f"{size / factor:,.{places}f} {unit}"
    return f"{size:,.0f} bytes"


def duration(seconds: float) -> str:
    """Hours, minutes, seconds: the two largest."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def percent(share: float | None, places: int = 2) -> str:
    """A share in per cent; `NONE` if there is none."""
    return NONE if share is None else f"{100 * share:.{places}f}"


def times_less(size: int, reference: int, of: str = "float32") -> str:
    """How much less a number of bytes is than the same in float32."""
    if not size or not reference:
        return ""
    ratio = reference / size
    if 0.9 <= ratio < 1.1:
        return f"about as much as {of}"
    if ratio < 1:
        return f"{1 / ratio:,.1f} times as much as {of}"
    return f"{ratio:,.{0 if ratio >= 20 else 1}f} times less than {of}"


def reasons(failed: Counter[str] | Mapping[str, int]) -> str:
    """Failures by reason, the most frequent first."""
    return ", ".join(f"{reason} \N{MULTIPLICATION SIGN} {count:,}" for reason, count in Counter(failed).most_common())


def changed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The run config's keys that are not at this version's default."""
    initial = defaults()
    return {key: value for key, value in config.items() if key not in initial or initial[key] != value}


def run_config_option(settings: Mapping[str, Any]) -> str:
    """Settings as they stand behind ``--run-config``, quoted for a shell."""
    text = " ".join(f"{key}={_toml(value)}" for key, value in settings.items())
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _toml(value: Any) -> str:
    text = json.dumps(value)
    plain = isinstance(value, str) and "'" not in value and value.isprintable() and text == f'"{value}"'
    return f"'{value}'" if plain else text
