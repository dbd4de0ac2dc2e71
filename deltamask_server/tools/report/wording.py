"""Numbers and a run's settings as a person reads them."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Any

from common.config import RunConfig

__all__ = [
    "NONE",
    "amount",
    "changed_settings",
    "coding",
    "duration",
    "method_name",
    "percent",
    "reasons",
    "run_config_option",
    "times_less",
]

NONE = "\N{EN DASH}"
"""In the place of a figure that there is not."""
_METHODS = {"deltamask": "DeltaMask", "hidenseek": "HideNseek", "fedavg": "FedAvg", "lotteryfl": "LotteryFL"}


def method_name(config: Mapping[str, Any]) -> str:
    """The method as its paper writes it."""
    method = str(config.get("method", "deltamask"))
    return _METHODS.get(method, method)


def coding(config: Mapping[str, Any]) -> str:
    """How the model travels."""
    method = config.get("method", "deltamask")
    if method == "deltamask":
        return f"codec {config.get('codec', '?')}, downlink {config.get('downlink', '?')}"
    if method == "hidenseek" and config.get("local-only"):
        return "nothing: clients go on from their own signs"
    if method == "hidenseek" and config.get("upload") == "signs":
        return f"signs, as bits or by {config.get('sign-codec', '?')}"
    if method == "lotteryfl":
        return "float32 both ways, of what each client keeps"
    return "float32 both ways"


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
    defaults = RunConfig().model_dump(by_alias=True)
    return {key: value for key, value in config.items() if key not in defaults or defaults[key] != value}


def run_config_option(settings: Mapping[str, Any]) -> str:
    """Settings as they stand behind ``--run-config``, quoted for a shell."""
    text = " ".join(f"{key}={_toml(value)}" for key, value in settings.items())
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _toml(value: Any) -> str:
    text = json.dumps(value)
    plain = isinstance(value, str) and "'" not in value and value.isprintable() and text == f'"{value}"'
    return f"'{value}'" if plain else text
