"""The methods: a room for each, with what server and clients must agree on. The rooms of the same names in
``deltamask_server/methods`` and ``deltamask_client/methods`` have its two sides.

A new method is a room on each floor, and a line in each floor's registry, of which this is the first.
"""

from __future__ import annotations

from common.methods.base import Method
from common.methods.deltamask.method import DeltaMask
from common.methods.fedavg.method import FedAvg
from common.methods.hidenseek.method import HideNseek
from common.methods.lotteryfl.method import LotteryFL
from common.methods.private.method import Private

__all__ = ["METHODS", "Method", "method_of"]

METHODS: dict[str, Method] = {
    method.name: method for method in (DeltaMask(), HideNseek(), FedAvg(), LotteryFL(), Private())
}
"""By their value of the run key ``method``."""


def method_of(number: int) -> Method | None:
    """The method that a payload's header names, or None if there is none of this number."""
    return next((method for method in METHODS.values() if method.number == number), None)
