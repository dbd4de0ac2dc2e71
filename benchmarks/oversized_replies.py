"""What replies far above their limit cost a ServerApp: one of three clients sends 400 MB where 8 MB are allowed.

    python -m benchmarks.oversized_replies        # three minutes; -> benchmarks/results/oversized-replies.json

A SuperLink and three SuperNodes on loopback run an app of their own; its server pulls replies by
`deltamask_server.exchange`, with `deltamask_server.transfer_limit` and without. The SuperLink takes what nodes send:
its memory is the same both ways.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.flower import ROOT, Flower

RESULT = Path(__file__).parent / "results" / "oversized-replies.json"
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "oversized"
version = "1.0.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "tests"
fab-include = ["**/*.py"]
[tool.flwr.app.components]
serverapp = "oversized:server"
clientapp = "oversized:client"
[tool.flwr.app.config]
limited = true
output = ""
"""
APP = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, ROOT)
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from deltamask_server import exchange as module

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    kind, size = message.content["order"]["kind"], message.content["order"]["bytes"]
    if kind == "array":
        content = {"a": ArrayRecord({"x": Array(np.random.default_rng(1).integers(0, 256, size, np.uint8))})}
    else:
        content = {"a": ConfigRecord({"x": bytes(size)})}
    return Message(RecordDict(content), reply_to=message)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

@server.main()
def main(grid, context):
    if not context.run_config["limited"]:
        module.limit_transfers = lambda grid, reply_bytes: None
    while len(list(grid.get_node_ids())) < 3:
        time.sleep(0.5)
    found = []
    for kind, size in (("array", 1 << 20), ("array", 400 << 20), ("config", 400 << 20), ("array", 1 << 20)):
        begun, before = time.monotonic(), peak()
        messages = []
        for number, node in enumerate(sorted(grid.get_node_ids())):
            order = ConfigRecord({"kind": kind, "bytes": size if number == 0 else 1 << 20})
            messages.append(Message(RecordDict({"order": order}), dst_node_id=node, message_type="train"))
        replies = list(module.exchange(grid, messages, 120.0, 8 << 20))
        found.append({
            "record": kind, "largest_reply_mb": size >> 20,
            "usable": sum(not reply.has_error() for reply in replies),
            "errors": [reply.error.reason[-90:] for reply in replies if reply.has_error()],
            "seconds": round(time.monotonic() - begun, 1), "peak_mb_more": round(peak() - before),
        })
        del replies
    Path(context.run_config["output"]).write_text(json.dumps(found))
"""


def measure(folder: Path, limited: bool) -> list[dict[str, Any]]:
    """Four rounds of exchange, and what each did."""
    app, output = folder / "app", folder / "found.json"
    app.mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (app / "oversized.py").write_text(APP.replace("ROOT", repr(str(ROOT)), 1), encoding="utf-8")
    with Flower(folder / "flower") as flower:
        for partition in range(3):
            flower.supernode(partition, 3)
        config = f"limited={'true' if limited else 'false'} output='{output}'"
        command = ["flwr", "run", str(app), "test", "--stream", "--run-config", config]
        done = subprocess.run(command, env=flower.env, cwd=folder, capture_output=True, text=True, timeout=400)
        if not output.is_file():
            raise RuntimeError(f"the run left nothing:\n{done.stdout}{done.stderr}{flower.logs()}")
        found: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
        return found


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory(prefix="deltamask-oversized-") as place:
        found = {name: measure(Path(place) / name, name == "limited") for name in ("limited", "unlimited")}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, rounds in found.items():
        for one in rounds:
            print(name, one)


if __name__ == "__main__":
    main()
