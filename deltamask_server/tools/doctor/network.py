"""Check that something listens at the SuperLink's address."""

from __future__ import annotations

import socket

from deltamask_server.tools.doctor.finding import Finding, failed, ok
from deltamask_server.tools.doctor.setting import Address

__all__ = ["PATIENCE", "check_reachable"]

PATIENCE = 5.0
"""Seconds for a connection."""


def check_reachable(address: Address) -> Finding:
    """Resolve the name and connect."""
    try:
        resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = "correct the name, or the machine's DNS (/etc/resolv.conf), or add the server to /etc/hosts"
        return failed("reachable", f"{address.host} is no known name: {error.strerror}", advice)
    where = ", ".join(sorted({str(info[4][0]) for info in resolved}))
    try:
        socket.create_connection((address.host, address.port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        advice = (
            "is the SuperLink running (systemctl status deltamask-superlink), and is this its --fleet-api-address, "
            "not 127.0.0.1 only?"
        )
        return failed("reachable", f"{address} ({where}): nothing listens there", advice)
    except TimeoutError:
        advice = "open this port for incoming connections in the server's firewall, and check the address"
        return failed("reachable", f"{address} ({where}): no answer in {PATIENCE:g} s", advice)
    except OSError as error:
        return failed(
            "reachable", f"{address} ({where}): {error.strerror}", "check this machine's network and the address"
        )
    return ok("reachable", f"{address} ({where}) accepts connections")
