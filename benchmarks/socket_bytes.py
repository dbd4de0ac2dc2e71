"""What a round costs at the socket: payloads, and what Flower, gRPC and TLS put around them.

    sudo .venv/bin/python -m benchmarks.socket_bytes run      # ten minutes -> benchmarks/results/socket-bytes.json
    .venv/bin/python -m benchmarks.socket_bytes table

The deployment of `benchmarks.thin_link`, its links without limits: a SuperLink and four SuperNodes, TLS and registered
keys. Each way is run twice, with few rounds and with more; the difference, by the rounds between, is what a round puts
on a client's link, IP headers included, without what a run costs once. A SuperNode asks for messages while it waits, so
part of it goes with time: the seconds of a round stand beside.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.results import FOLDER
from benchmarks.thin_link import command_line, measure

RESULTS = FOLDER / "socket-bytes.json"
FEW, MORE = 2, 6
WAYS: dict[str, dict[str, Any]] = {
    "default": {"train-limit": 400},
    # below 1, models are asked about by messages of their own, here of the same four clients
    "default, a message more for images held out": {"train-limit": 400, "participation": 0.99},
}


def difference(config: dict[str, Any]) -> dict[str, Any]:
    """A round of a client: bytes of payloads, bytes on the link, and seconds."""
    few, more = (measure(config | {"num-server-rounds": rounds}, thin=False) for rounds in (FEW, MORE))
    key = "link bytes a client in the whole run"
    return {
        "payload bytes": more["payload bytes a client and round"],
        "link bytes": {way: round((more[key][way] - few[key][way]) / (MORE - FEW)) for way in ("up", "down")},
        "seconds": round(sum(more["seconds a round"][FEW:]) / (MORE - FEW), 1),
    }


def table() -> str:
    """What is kept, as Markdown."""
    lines = [
        "| way | payload up, bytes | on the link up | payload down, bytes | on the link down | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        payload, link = found["payload bytes"], found["link bytes"]
        lines.append(
            f"| {name} | {payload['uplink']:,} | {link['up']:,} | {payload['downlink']:,} | {link['down']:,} "
            f"| {found['seconds']:g} |"
        )
    return "\n".join(lines)


def run() -> None:
    """Measure every way, and keep what was found."""
    found: dict[str, Any] = {}
    for name, config in WAYS.items():
        found[name] = difference(config)
        print(name, json.dumps(found[name]), flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command_line("Bytes of a round at the socket.", run, table)
