"""The client's side of each method. A new method is a room here, and a line in `CLIENTS`."""

from __future__ import annotations

from deltamask_client.methods.base import ClientMethod
from deltamask_client.methods.deltamask.client import DeltaMaskClient
from deltamask_client.methods.fedavg.client import FedAvgClient
from deltamask_client.methods.hidenseek.client import HideNseekClient
from deltamask_client.methods.lotteryfl.client import LotteryClient
from deltamask_client.methods.private.client import PrivateClient

__all__ = ["CLIENTS", "ClientMethod"]

CLIENTS: dict[str, type[ClientMethod]] = {
    client.name: client for client in (DeltaMaskClient, HideNseekClient, FedAvgClient, LotteryClient, PrivateClient)
}
"""By the run key ``method``."""
