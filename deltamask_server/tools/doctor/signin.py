"""Check that the SuperLink takes this node: its key and its clock.

The request is one that changes nothing: ActivateNode with a heartbeat interval that is out of range. The SuperLink
looks at signature and time stamp first, then whether it knows the key, and at the interval last. It says nothing of its
version, and takes any; see `deltamask_server.tools.doctor.facts`.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok, warning
from deltamask_server.tools.doctor.keys import read_node_key
from deltamask_server.tools.doctor.network import PATIENCE
from deltamask_server.tools.doctor.setting import Address

__all__ = ["check_sign_in"]

_IMPOSSIBLE_INTERVAL = -1.0


def check_sign_in(address: Address, ca: Path, key: Path) -> Finding:
    """Ask the SuperLink, signed with this node's key.

    Parameters
    ----------
    address, ca, key
        Of the SuperLink, of its CA, of this node; the checks of each have passed.
    """
    try:
        import grpc  # type: ignore[import-untyped]
        from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
        from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
        from flwr.proto.fleet_pb2 import ActivateNodeRequest
        from flwr.proto.fleet_pb2_grpc import FleetStub
        from flwr.supercore.error import ApiErrorCode
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    except ImportError:  # from 1.40 on there is no gRPC between the two
        advice = "look at the SuperNode's log after it has started"
        return warning("sign-in", "not checked: this version of Flower has no Fleet API over gRPC", advice)
    private = read_node_key(key)
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(private.public_key()), heartbeat_interval=_IMPOSSIBLE_INTERVAL
    )
    channel = grpc.secure_channel(str(address), grpc.ssl_channel_credentials(ca.read_bytes()))
    try:
        with channel:
            stub = FleetStub(grpc.intercept_channel(channel, NodeAuthClientInterceptor(private, private.public_key())))
            stub.ActivateNode(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        status, details = error.code(), error.details() or ""
    else:
        return warning("sign-in", "the SuperLink took a request that it should refuse", "is it of another version?")

    code, text = _reason(details)
    if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
        return ok("sign-in", "the SuperLink knows this node's key, and accepts its clock")
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return failed(
            "sign-in",
            "the SuperLink does not know this node's key: it was never registered there, or revoked",
            "register it on the server: deploy/tls/keys.sh register",
        )
    if status == grpc.StatusCode.UNAUTHENTICATED and text == "Invalid timestamp":
        behind = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
        found = f"this clock is more than {SYSTEM_TIME_TOLERANCE} s ahead of the SuperLink's, or {behind} s behind it"
        return failed("clock", found, "compare `date -u` on both machines; timedatectl set-ntp true on both")
    return failed("sign-in", f"{status.name}: {text}", "look at the SuperLink's log")


def _reason(details: str) -> tuple[int | None, str]:
    """Flower's own code and text, if the error is of Flower."""
    try:
        error = json.loads(details)
        return int(error["code"]), brief(error.get("public_details") or error.get("public_message") or details)
    except (ValueError, KeyError, TypeError):
        return None, brief(details)
