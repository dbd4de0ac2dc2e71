#!/opt/deltamask/bin/python
"""Whether these ports of the container answer: over TLS, with a certificate that the file HEALTH_CA has signed, or on
plain TCP where that is empty.

deltamask-health 8000 9092
"""

from __future__ import annotations

import os
import socket
import ssl
import sys

SECONDS = 5.0


def check(port: int, authority: str) -> None:
    """Raise OSError unless the port answers: ssl.SSLError is one."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain:
        if authority:
            context = ssl.create_default_context(cafile=authority)
            context.set_alpn_protocols(["h2", "http/1.1"])  # gRPC answers to h2 only
            with context.wrap_socket(plain, server_hostname="localhost"):
                pass


def main() -> None:
    """Exit with 1, and a line for the first port that does not answer."""
    for port in sys.argv[1:]:
        try:
            check(int(port), os.environ.get("HEALTH_CA", ""))
        except OSError as error:
            sys.exit(f"port {port}: {error}")


if __name__ == "__main__":
    main()
