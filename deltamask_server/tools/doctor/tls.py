"""Checks of TLS: the CA's file, the server's certificate as it is presented, and whether gRPC is behind it.

OpenSSL checks chain and names. Dates are compared here, with a clock that the caller names, so that a certificate out
of its time and a machine whose clock is wrong can be told apart.
"""

from __future__ import annotations

import socket
import ssl
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from common.errors import brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning
from deltamask_server.tools.doctor.network import PATIENCE
from deltamask_server.tools.doctor.setting import Address

__all__ = ["check_ca", "check_plain", "check_tls", "read_certificate"]

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL; Python has no name for it."""
_WRONG_NAME = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_SOON = timedelta(days=14)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client says first, with empty settings."""
_SETTINGS = 4


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; raises OSError or ValueError."""
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def check_ca(path: Path, now: datetime) -> Finding:
    """The CA's certificate, as a file."""
    try:
        certificate = read_certificate(path)
    except OSError as error:
        return failed("ca", f"{path}: {error.strerror}", "copy ca.crt from the server, readable for this account")
    except ValueError:
        return failed("ca", f"{path}: no certificate in PEM format", "copy ca.crt from the server again")
    if wrong := _dates("ca", f"{path}", certificate, now, "make a new CA (deploy/tls) and hand out its ca.crt"):
        return wrong
    return ok("ca", f"{path}: {_subject(certificate)}, valid until {_day(certificate)}")


def check_tls(address: Address, ca: Path, now: datetime) -> list[Finding]:
    """Shake hands with the SuperLink as a SuperNode does.

    Parameters
    ----------
    address
        Of its Fleet API.
    ca
        A PEM file that is known to hold certificates.
    now
        The time by this machine's clock.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    try:
        certificate, protocol = _shake_hands(address, context)
    except ssl.SSLCertVerificationError as error:
        return [_refused(address, ca, error)]
    except (OSError, ValueError) as error:
        advice = "is this the SuperLink's Fleet API, and was it started with TLS (no --insecure)?"
        return [failed("tls", f"{address} does not speak TLS: {brief(_reason(error))}", advice)]
    if wrong := _dates(
        "tls", f"the certificate of {address}", certificate, now, "make the server a new one (deploy/tls)"
    ):
        return [wrong]
    found = ok("tls", f"signed by this CA for {address.host}, valid until {_day(certificate)}")
    if protocol != "h2":
        advice = (
            "this is not the Fleet API: use the port of --fleet-api-address (9092), not the one that `flwr` uses (8000)"
        )
        return [found, failed("grpc", f"{address} speaks TLS, but not gRPC", advice)]
    return [found, ok("grpc", f"{address} speaks HTTP/2")]


def check_plain(address: Address) -> list[Finding]:
    """Without TLS: gRPC in the open, or something else."""
    insecure = warning(
        "tls",
        "off (--insecure): anybody on the way can read and change everything",
        "for one machine only; else deploy/tls",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _shake_hands(address, context)
    except (OSError, ValueError):
        pass
    else:
        advice = "install again with --ca FILE and without --insecure"
        return [failed("tls", f"{address} speaks TLS, and this machine is set to --insecure", advice)]
    try:
        with socket.create_connection(address, timeout=PATIENCE) as connection:
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
    except OSError as error:
        answer = str(error).encode()
    if len(answer) < 4 or answer[3] != _SETTINGS:
        return [insecure, failed("grpc", f"{address} does not speak gRPC", "is this the port of --fleet-api-address?")]
    return [insecure, ok("grpc", f"{address} speaks HTTP/2")]


def _shake_hands(address: Address, context: ssl.SSLContext) -> tuple[x509.Certificate, str | None]:
    """The certificate that the other side shows, and the protocol that it chooses."""
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(address, timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=address.host) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown or b""), connection.selected_alpn_protocol()


def _refused(address: Address, ca: Path, error: ssl.SSLCertVerificationError) -> Finding:
    """Chain or name are wrong: look at the certificate once more, whatever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        certificate, _ = _shake_hands(address, context)
    except (OSError, ValueError):
        return failed("tls", f"{address}: {error.verify_message}", "look at the SuperLink's log")
    if error.verify_code in _WRONG_NAME:
        advice = f"use one of these, or make the server a certificate that names {address.host} too (deploy/tls)"
        return failed("tls", f"the certificate of {address} is for {_names(certificate)}, not {address.host}", advice)
    issuer = brief(certificate.issuer.rfc4514_string())
    advice = "copy ca.crt from this server; if it is from there, the address leads to another server"
    found = f"the certificate of {address} is not signed by the CA of {ca}, but by {issuer} ({error.verify_message})"
    return failed("tls", found, advice)


def _dates(check: str, what: str, certificate: x509.Certificate, now: datetime, remedy: str) -> Finding | None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        advice = "this machine's clock is behind: set it (timedatectl set-ntp true); if it is right, wait, or " + remedy
        return failed(
            check, f"{what} is valid from {start:%Y-%m-%d %H:%M} UTC on, and it is {now:%Y-%m-%d %H:%M} here", advice
        )
    if now > end:
        return failed(check, f"{what} expired on {end:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here", remedy)
    if now > end - _SOON:
        return warning(check, f"{what} expires on {end:%Y-%m-%d %H:%M} UTC", remedy + " before that")
    return None


def _day(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%d}"


def _subject(certificate: x509.Certificate) -> str:
    return brief(certificate.subject.rfc4514_string()) or "without a name"


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no address (it has no subjectAltName)"
    return brief(", ".join(str(name.value) for name in names))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {PATIENCE:g} s"
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
