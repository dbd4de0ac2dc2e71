"""The head round: every client measures its features once, and the head is made of what all sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr.serverapp import Grid

from common.messages import HEAD, Part, Update, pack_classes
from common.models.heads import FittedHead, Head, Statistics
from deltamask_server.correspondence import Correspondence
from deltamask_server.exchange import exchange
from deltamask_server.limits import ClientLimits

__all__ = ["fit_head"]


def fit_head(
    kind: FittedHead,
    shape: tuple[int, int],
    clients: Mapping[int, int],
    mail: Correspondence,
    class_names: Sequence[str],
    limits: ClientLimits,
    grid: Grid,
    timeout: float,
    tells_fit: bool = True,
) -> Head:
    """Ask clients for their statistics, and combine them; the tally then says whose count for less.

    Parameters
    ----------
    kind, shape
        How the head comes about; classes and features.
    clients
        Client id to node id.
    mail
        Keeps the tally.
    class_names
        For clients with images of their own; may be empty.
    limits
        What one client may do.
    grid, timeout
        Where messages go, and how long to wait for answers, seconds.
    tells_fit
        Whether clients say how good the head is that they would have alone.

    Raises
    ------
    RoundError
        If fewer replies than the quorum are usable.
    """
    messages = mail.address(clients, dict.fromkeys(clients, pack_classes(class_names)), HEAD, "head")
    statistics: dict[int, Statistics] = {}
    part = Part(kind.max_bytes(*shape))

    def keep(client: int, update: Update) -> None:
        kind.check(update.parts["statistics"], *shape, update.examples)
        statistics[client] = Statistics(update.parts["statistics"], update.examples)

    mail.collect(exchange(grid, messages, timeout, part.limit), {"statistics": part}, keep, fit=tells_fit)
    mail.require_quorum("the head round")
    verdicts = limits.judge(kind, statistics, shape)
    # In the order of client ids: a sum of floats depends on its order, and arrival is chance.
    counted = [
        statistics[client]._replace(factor=verdicts[client].factor)
        for client in sorted(statistics)
        if verdicts[client].factor
    ]
    mail.tally.limited = {client: verdict for client, verdict in verdicts.items() if verdict.factor < 1}
    return kind.combine(counted, *shape)
