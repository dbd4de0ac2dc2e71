"""Flower's own Fleet API over gRPC, in this process, as a SuperLink runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec


class Fleet:
    """Listens on loopback, with a state of its own in memory; with TLS and node authentication, or without both."""

    def __init__(self, tls: tuple[Path, Path, Path] | None = None) -> None:
        """``tls``: files of the CA's certificate, the server's, and its key."""
        pytest.importorskip("flwr.server.superlink.fleet.grpc_rere", reason="this Flower has no Fleet API over gRPC")
        from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import NodeAuthServerInterceptor
        from flwr.server.superlink.linkstate import LinkStateFactory
        from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
        from flwr.supercore.object_store import ObjectStoreFactory
        from flwr.superlink.cli.flower_superlink import _run_fleet_api_grpc_rere
        from flwr.superlink.federation import NoOpFederationManager

        store = ObjectStoreFactory()
        states = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), store)
        self._state = states.state()
        certificates = None if tls is None else (tls[0].read_bytes(), tls[1].read_bytes(), tls[2].read_bytes())
        interceptors = [NodeAuthServerInterceptor(states)]
        self._server = _run_fleet_api_grpc_rere(
            "127.0.0.1:0", states, store, tls is not None, certificates, interceptors
        )
        self.address = str(self._server.bound_address)

    def register(self, key: ec.EllipticCurvePrivateKey) -> None:
        """What `flwr supernode register` does."""
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes

        self._state.create_node("", "", public_key_to_bytes(key.public_key()), 0)

    def close(self) -> None:
        self._server.stop(None).wait()
