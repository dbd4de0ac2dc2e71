"""The server's side of each method. A new method is a room here, and a line in `STRATEGIES`."""

from __future__ import annotations

from deltamask_server.methods.deltamask.strategy import DeltaMask
from deltamask_server.methods.fedavg.strategy import FedAvg
from deltamask_server.methods.hidenseek.strategy import HideNseek
from deltamask_server.methods.lotteryfl.strategy import LotteryFL
from deltamask_server.methods.private.strategy import Private
from deltamask_server.rounds import RoundStrategy

__all__ = ["STRATEGIES"]

STRATEGIES: dict[str, type[RoundStrategy]] = {
    strategy.name: strategy for strategy in (DeltaMask, HideNseek, FedAvg, LotteryFL, Private)
}
"""By the run key ``method``."""
