"""What a server says of itself, as a small file that goes to the devices with the CA's certificate.

Flower tells a SuperNode nothing of the server's versions or clock before it takes part: this file does.
"""

from __future__ import annotations

import json
import platform
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256

from common.errors import DataError, brief
from common.wire import VERSIONS
from deltamask_server.tools.doctor.backbone_weights import embedded_digest
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning
from deltamask_server.tools.doctor.tls import read_certificate

__all__ = ["check_facts", "make_facts", "read_facts"]

_AHEAD = timedelta(seconds=5)
"""How far a SuperNode's clock may be ahead of the SuperLink's."""
_MUST_AGREE = ("deltamask", "wire", "weights")
_WHAT = {"wire": "the payloads' format", "weights": "the embedded weights"}
_MANY = 65536


def make_facts(now: datetime, ca: Path | None) -> dict[str, Any]:
    """Versions, time and CA of this machine.

    Parameters
    ----------
    now
        The time, with its zone.
    ca
        The CA's certificate; None without TLS.
    """
    facts: dict[str, Any] = {"written": now.isoformat(timespec="seconds"), "python": platform.python_version()}
    for package in ("deltamask", "flwr", "torch"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    facts["wire"] = ",".join(map(str, sorted(VERSIONS)))
    facts["weights"] = embedded_digest()
    facts["ca"] = read_certificate(ca).fingerprint(SHA256()).hex() if ca else ""
    return facts


def read_facts(path: Path) -> dict[str, Any]:
    """Read a file that `make_facts` has filled.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        with path.open("rb") as file:
            facts = json.loads(file.read(_MANY))
        datetime.fromisoformat(facts["written"]).astimezone()
        if not all(
            isinstance(facts[name], str) for name in ("python", "deltamask", "flwr", "torch", "wire", "weights", "ca")
        ):
            raise ValueError("a value is no text")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not of `deltamask doctor --write-facts`: {brief(error)}") from error
    return dict(facts)


def check_facts(path: Path, now: datetime, ca: Path | None) -> list[Finding]:
    """Compare this machine with what the server wrote: versions, clock, CA.

    Parameters
    ----------
    path
        The server's file.
    now
        The time by this machine's clock, with its zone.
    ca
        The CA's certificate that this machine trusts.
    """
    remedy = "write it on the server (deltamask doctor --write-facts FILE) and copy it here"
    try:
        server = read_facts(path)
        here = make_facts(now, ca)
    except DataError as error:
        return [failed("facts", str(error), remedy)]
    except Exception as error:  # of a library or file that other checks name
        return [failed("facts", f"this machine's own cannot be found: {brief(error)}", "see the other lines")]
    found = [_versions(here, server)]
    written = datetime.fromisoformat(server["written"])
    if now < written - _AHEAD:
        text = f"it is {now:%Y-%m-%d %H:%M:%S} here, and the server wrote its facts at {written:%Y-%m-%d %H:%M:%S}"
        advice = "this clock is behind, or the server's was ahead: timedatectl set-ntp true on both, and new facts"
        found.append(failed("clock", text, advice))
    if ca and server["ca"] != here["ca"]:
        text = f"{ca} is not the CA of the server's facts (SHA-256 {here['ca'][:16]} and {server['ca'][:16] or 'none'})"
        found.append(failed("ca", text, "copy ca.crt from the server again"))
    return found


def _versions(here: dict[str, Any], server: dict[str, Any]) -> Finding:
    different = [
        f"{_WHAT.get(name, name)} {brief(server[name])} there, {here[name]} here"
        for name in (*_MUST_AGREE, "flwr")
        if (_series(server[name]) != _series(here[name]) if name == "flwr" else server[name] != here[name])
    ]
    if different:
        return failed(
            "versions", "; ".join(different), "install the same version on both sides (deploy/edge/install.sh)"
        )
    rounding = [
        f"{name} {brief(server[name])} there, {here[name]} here"
        for name in ("python", "torch")
        if _series(server[name]) != _series(here[name])
    ]
    if rounding:
        advice = "it works, but figures may differ in the last digits: install the same where you can"
        return warning("versions", "; ".join(rounding), advice)
    return ok("versions", f"deltamask {here['deltamask']}, flwr {here['flwr']}, torch {here['torch']} fit the server's")


def _series(text: str) -> list[str]:
    """Of a version, major and minor number."""
    return text.split("+")[0].split(".")[:2]
