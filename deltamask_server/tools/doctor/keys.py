"""Checks of private keys: files that are for one account only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from common.errors import brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok
from deltamask_server.tools.doctor.tls import read_certificate

__all__ = ["check_node_key", "check_server_key", "read_node_key"]


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A SuperNode's key, of the kind that Flower takes.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is another.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(brief(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("no ECDSA key")
    return key


def check_node_key(path: Path) -> Finding:
    """Private, readable here, and of the right kind."""
    if wrong := _rights("key", path):
        return wrong
    try:
        key = read_node_key(path)
    except (OSError, ValueError) as error:
        advice = "make one: ssh-keygen -t ecdsa -b 384 -N '' -f FILE (deploy/tls), and register it on the server"
        return failed("key", f"{path} is no key that Flower takes: {error}", advice)
    return ok("key", f"{path}: ECDSA, {key.curve.name}, for its owner only")


def check_server_key(path: Path, certificate: Path) -> Finding:
    """Private, readable here, and the one that the certificate is for."""
    if wrong := _rights("server key", path):
        return wrong
    advice = "make both again, together (deploy/tls)"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
        ours, theirs = (
            public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for public in (key.public_key(), read_certificate(certificate).public_key())
        )
    except Exception as error:  # many types, by what is wrong with the bytes
        return failed("server key", f"{path} or {certificate} cannot be used: {brief(error)}", advice)
    if ours != theirs:
        return failed("server key", f"{path} is not the key of {certificate}", advice)
    return ok("server key", f"{path} is the key of {certificate}")


def _rights(check: str, path: Path) -> Finding | None:
    try:
        status = path.stat()
    except OSError as error:
        return failed(check, f"{path}: {error.strerror}", "copy or make the key there, for the service's account alone")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return failed(check, f"{path} has mode {mode:04o}: others may use it", f"chmod 600 {path}")
    if not os.access(path, os.R_OK):
        return failed(
            check, f"{path} cannot be read by account {os.geteuid()}", "chown it to the service's account, deltamask"
        )
    return None
