"""What a report derives from the numbers of a run: sums, means, and what float32 would have cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from deltamask_server.tools.report.data import OwnImages, Round, Run

__all__ = ["ClientFigures", "Totals", "client_figures", "round_seconds", "totals", "traffic_after_rounds"]

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Totals:
    """Of a whole run; bits are means over rounds, as the run's summary has them, None where no round has finished."""

    head: int
    """Bytes up in the head round."""
    up: int
    """Bytes up in the rounds of training."""
    down: int
    up_bits: float | None
    down_bits: float | None
    later_down_bits: float | None
    """From the second round on, when clients hold a model already."""
    up_float32: int
    """The masked parameters in float32, once for each payload that came in."""
    down_float32: int
    asked: int
    ok: int
    failed: Counter[str]
    """Training replies that were missing or dropped, by reason."""
    seconds: float
    """Of the head round and the rounds; without start and shutdown."""

    @property
    def bytes(self) -> int:
        """Both ways, with the head."""
        return self.head + self.up + self.down


@dataclass(frozen=True)
class ClientFigures:
    """One client over the whole run."""

    client: int
    asked: int
    ok: int
    head: int
    up: int
    first_down: int
    """Bytes of the first message, which brings the whole model."""
    later_down: int
    failed: Counter[str]
    broken_images: int
    held_out: float | None
    personal: float | None
    """Its last accuracies."""


def totals(run: Run) -> Totals:
    """Sum a run up."""
    rounds, head, model = run.results.rounds, run.results.head, run.results.model
    failed: Counter[str] = Counter()
    for entry in rounds:
        failed.update(entry.clients.failed)
    whole = _FLOAT32_BYTES * (model.masked_parameters if model else 0)
    return Totals(
        head=head.uplink.total if head else 0,
        up=sum(entry.uplink.total for entry in rounds),
        down=sum(entry.downlink.total for entry in rounds) + _head_down(run),
        up_bits=_mean(entry.uplink.bpp for entry in rounds),
        down_bits=_mean(entry.downlink.bpp for entry in rounds),
        later_down_bits=_mean(entry.downlink.bpp for entry in rounds[1:]),
        up_float32=whole * sum(len(entry.uplink.payload_bytes) for entry in rounds),
        down_float32=whole * sum(len(entry.downlink.payload_bytes) for entry in rounds),
        asked=sum(entry.clients.asked for entry in rounds),
        ok=sum(entry.clients.ok for entry in rounds),
        failed=failed,
        seconds=(head.seconds if head else 0.0) + sum(round_seconds(entry) for entry in rounds),
    )


def round_seconds(entry: Round) -> float:
    """Wall time of a round; decoding and folding lie within the wait for clients."""
    return sum(value for phase, value in entry.seconds.items() if phase != "aggregate")


def traffic_after_rounds(run: Run) -> list[int]:
    """Bytes both ways so far: after the head round, and after each round."""
    head = run.results.head
    sizes = [entry.uplink.total + entry.downlink.total for entry in run.results.rounds]
    return list(accumulate(sizes, initial=(head.uplink.total if head else 0) + _head_down(run)))


def client_figures(run: Run) -> list[ClientFigures]:
    """Every client that a message went to, by its id."""
    rounds, head = run.results.rounds, run.results.head
    known: set[int] = set()
    if head:
        known |= head.uplink.payload_bytes.keys() | head.clients.failed_clients.keys()
    for entry in rounds:
        known |= entry.downlink.payload_bytes.keys() | entry.clients.failed_clients.keys()
    return [_of_client(run, client) for client in sorted(known)]


def _of_client(run: Run, client: int) -> ClientFigures:
    rounds, head = run.results.rounds, run.results.head
    up = [entry.uplink.payload_bytes[client] for entry in rounds if client in entry.uplink.payload_bytes]
    sent = [*([head.downlink] if head and head.downlink else []), *(entry.downlink for entry in rounds)]
    down = [traffic.payload_bytes[client] for traffic in sent if client in traffic.payload_bytes]
    failed = Counter(entry.clients.failed_clients[client] for entry in rounds if client in entry.clients.failed_clients)
    if head and client in head.clients.failed_clients:
        failed[f"{head.clients.failed_clients[client]} (head round)"] += 1
    broken = [entry.broken_images.get(client, 0) for entry in (head, *rounds) if entry]
    return ClientFigures(
        client=client,
        asked=len(up) + sum(client in entry.clients.failed_clients for entry in rounds),
        ok=len(up),
        head=head.uplink.payload_bytes.get(client, 0) if head else 0,
        up=sum(up),
        first_down=down[0] if down else 0,
        later_down=sum(down[1:]),
        failed=failed,
        broken_images=max(broken, default=0),
        held_out=_last(entry.validation.clients.get(client) for entry in rounds if entry.validation),
        personal=_last(entry.personal.clients.get(client) for entry in rounds if entry.personal),
    )


def _head_down(run: Run) -> int:
    head = run.results.head
    return head.downlink.total if head and head.downlink else 0


def _last(found: Iterable[OwnImages.Client | None]) -> float | None:
    """The newest accuracy on at least one image."""
    accuracies = [each.accuracy for each in found if each and each.examples > 0]
    return accuracies[-1] if accuracies else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
