"""What `deltamask doctor` is to check: from its options, or from the settings that deploy/edge/install.sh writes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.errors import ConfigError

__all__ = ["Address", "Setting", "parse_address", "read_settings"]

_ENVIRONMENT = ("FLWR_HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")


class Address(NamedTuple):
    """Where the SuperLink's Fleet API listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class Setting:
    """One machine's part in a federation. What is None or empty is not checked."""

    superlink: Address | None = None
    insecure: bool = False
    root_certificates: Path | None = None
    auth_key: Path | None = None
    """A SuperNode's private key."""
    server_certificate: Path | None = None
    server_key: Path | None = None
    """The server's own, on the server."""
    data: str = ""
    """As in the node config; without, a node has its share of the run's dataset."""
    pixel_range: str = "auto"
    """As in the node config."""
    device: str = "auto"
    facts: Path | None = None
    flwr_home: Path = field(default_factory=lambda: Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr"))
    cache: Path | None = None
    """None is a client's own default."""
    free_disk_gb: float = 1.0
    """In 10^9 bytes. A round needs less; a backbone of the hub, or activations of ten thousand images, about that."""


def parse_address(text: str) -> Address:
    """``host:port``, or ``[ipv6]:port``.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"address {text!r}: HOST:PORT is needed, for instance server.example:9092")
    return Address(host, int(port))


def read_settings(path: Path) -> Setting:
    """Read the settings of an installed SuperNode or SuperLink, and set this process's folders to those of the service.

    Parameters
    ----------
    path
        A file of lines ``NAME="value"``, as systemd reads it.

    Raises
    ------
    ConfigError
        If it cannot be read, or is none.
    """
    values = _lines(path)
    os.environ.update({name: values[name] for name in _ENVIRONMENT if values.get(name)})
    try:
        security = _options(shlex.split(values.get("DELTAMASK_SECURITY", "")))
    except ValueError as error:
        raise ConfigError(f"{path}: DELTAMASK_SECURITY: {error}") from error
    setting = Setting(insecure="insecure" in security)
    if "DELTAMASK_SUPERLINK" in values:
        setting.superlink = parse_address(values["DELTAMASK_SUPERLINK"])
        setting.root_certificates = _path(security.get("root-certificates"))
        setting.auth_key = _path(security.get("auth-supernode-private-key"))
        setting.data = values.get("DELTAMASK_DATA", "")
        facts = _path(values.get("DELTAMASK_FACTS"))
        setting.facts = facts if facts and facts.exists() else None  # a file that not every site has
        options = values.get("DELTAMASK_NODE_OPTIONS", "")
        setting.device = _option(options, "device") or "auto"
        setting.pixel_range = _option(options, "pixel-range") or "auto"
    elif "DELTAMASK_FLEET" in values:
        address = parse_address(values["DELTAMASK_FLEET"])
        # What listens everywhere listens here; the certificate names 127.0.0.1, since the SuperLink's own parts use it.
        setting.superlink = Address("127.0.0.1", address.port) if address.host in ("0.0.0.0", "::") else address
        setting.root_certificates = _path(security.get("ssl-ca-certfile"))
        setting.server_certificate = _path(security.get("ssl-certfile"))
        setting.server_key = _path(security.get("ssl-keyfile"))
    else:
        raise ConfigError(f"{path}: neither DELTAMASK_SUPERLINK nor DELTAMASK_FLEET in it; is it of install.sh?")
    return setting


def _lines(path: Path) -> Mapping[str, str]:
    try:
        text = path.read_text()
    except PermissionError as error:
        raise ConfigError(f"{path}: it may not be read by you; put `sudo -u deltamask` in front") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        name, equals, value = line.partition("=")
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        if not equals or len(words) > 1:
            raise ConfigError(f'{path}, line {number}: NAME="value" is needed')
        values[name.strip()] = words[0] if words else ""
    return values


def _options(words: list[str]) -> dict[str, str]:
    """``--name value`` and ``--flag``, by name."""
    found: dict[str, str] = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            following = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else ""
            found[name] = value or following
    return found


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _option(options: str, key: str) -> str:
    """Of more node config, what a key says; empty if nothing."""
    for option in shlex.split(options):
        name, _, value = option.partition("=")
        if name == key:
            return value
    return ""
