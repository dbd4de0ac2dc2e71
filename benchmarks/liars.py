"""What clients that lie can do to a run, with the defences and without, and what the defences cost honest runs.

    python -m benchmarks.liars run        # an hour of one core; what is kept already is skipped
    python -m benchmarks.liars table

The demo's network and data, ten clients, ten rounds of one local epoch. A liar trains as everybody does, and then sends
by a valid payload another theta than it has learnt, or learns from wrong labels. One seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from benchmarks.in_process import Node, run_in_process
from common.theta import probabilities
from deltamask_client.methods.deltamask import client as client_module
from deltamask_client.methods.deltamask.training import MaskResult, train_masks

RESULT = Path(__file__).parent / "results" / "liars.json"
CLIENTS = 10
CONFIG: dict[str, Any] = {"local_epochs": 1, "num_server_rounds": 10}
SPLITS: dict[str, dict[str, Any]] = {
    "even": {},
    "Dirichlet 0.1": {"partitioner": "dirichlet", "dirichlet_alpha": 0.1},
}
CODECS: dict[str, dict[str, Any]] = {"exact": {}, "relative": {"codec": "relative", "downlink": "relay"}}
DEFENCES: dict[str, dict[str, Any]] = {
    "off": {"most_examples": 0.0, "most_change": 0.0, "most_disagreement": 0.0},
    "on": {},
}
Lie = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


def _logit(p: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.log(p / (1 - p))


LIES: dict[str, Lie] = {
    "opposite": lambda before, after: 2 * before - after,
    "reversed fivefold": lambda before, after: 1 / (1 + np.exp(5 * (_logit(after) - _logit(before)) - _logit(before))),
    "1 - theta": lambda before, after: 1 - before,
    "everything dropped": lambda before, after: np.full_like(before, 0.01),
    "random": lambda before, after: np.random.default_rng(1).random(len(before), dtype=np.float32),
}
"""Of the probabilities before and after training."""
LABELS = "wrong labels"
KINDS = (*LIES, LABELS)


def _lying(kind: str) -> Callable[..., MaskResult]:
    def train(
        backbone: Any, head: Any, activations: Any, labels: Any, theta: Any, recipe: Any, **rest: Any
    ) -> MaskResult:
        if kind == LABELS:
            labels = (labels + 1) % len(head.bias)
        result = train_masks(backbone, head, activations, labels, theta, recipe, **rest)
        if kind in LIES:
            before = probabilities(theta)
            lie = np.clip(LIES[kind](before, result.theta), 0, 1).astype(np.float32)
            result = MaskResult(lie, result.fit, result.head)
        return result

    return train


@contextmanager
def _patched(kind: str) -> Any:
    with patch.object(client_module, "train_masks", _lying(kind)):
        yield


def liar(kind: str, node: Node) -> Node:
    """A node that lies."""

    def answer(message: Message) -> list[Message]:
        with _patched(kind):
            return node(message)

    return answer


def play(codec: str, split: str, kind: str, liars: int, defence: str, cache: Path) -> dict[str, Any]:
    """One run, and what is kept of it."""
    config = CONFIG | CODECS[codec] | SPLITS[split] | DEFENCES[defence]
    nodes = [{"partition-id": k, "num-partitions": CLIENTS} for k in range(CLIENTS)]
    with tempfile.TemporaryDirectory(prefix="deltamask-liars-") as folder:

        def wrap(number: int, node: Node) -> Node:
            return liar(kind, node) if number < liars else node

        results = run_in_process(Path(folder), config, nodes, cache, wrap=wrap)
    limited = [entry["clients"].get("limited", {}) for entry in results["rounds"]]
    return {
        "codec": codec,
        "split": split,
        "kind": kind if liars else "honest",
        "liars": liars,
        "defence": defence,
        "head": results["linear_probe"]["accuracy"],
        "accuracy": [entry["accuracy"]["mean"] for entry in results["rounds"]],
        "kept": results["kept"]["accuracy"],
        "kept round": results["kept"]["round"],
        "liars limited": sum(int(client) < liars for one in limited for client in one),
        "honest limited": sum(int(client) >= liars for one in limited for client in one),
        "honest left out": sum(
            int(client) >= liars and not said["factor"] for one in limited for client, said in one.items()
        ),
    }


def plans() -> list[tuple[str, str, str, int, str]]:
    """Codec, split, kind, liars, defence."""
    honest = [(codec, split, "honest", 0, defence) for split in SPLITS for codec in CODECS for defence in DEFENCES]
    lies = [
        (codec, split, kind, liars, defence)
        for split in SPLITS
        for codec in CODECS
        for liars in (2, 1)
        for kind in KINDS
        for defence in ("on", "off")
    ]
    return honest + lies


def table(runs: list[dict[str, Any]]) -> str:
    """As Markdown: accuracy after the last round (and of the model kept) without the defences and with them, and how
    many replies of liars and of honest clients were limited with them.
    """
    columns = list(dict.fromkeys((run["codec"], run["split"]) for run in runs))
    by: dict[tuple[int, str], dict[tuple[str, str], dict[str, dict[str, Any]]]] = {}
    for run in runs:
        group = by.setdefault((run["liars"], run["kind"]), {})
        group.setdefault((run["codec"], run["split"]), {})[run["defence"]] = run
    lines = [f"| clients lie | {' | '.join(f'`{codec}`, {split}' for codec, split in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for (liars, kind), found in sorted(by.items()):
        cells = [_cell(found.get(column, {}), liars) for column in columns]
        lines.append(f"| {f'{liars}: {kind}' if liars else 'nobody'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: dict[str, dict[str, Any]], liars: int) -> str:
    last = {defence: f"{100 * run['accuracy'][-1]:.1f} ({100 * run['kept']:.1f})" for defence, run in found.items()}
    text = " -> ".join(last.get(defence, "-") for defence in ("off", "on"))
    if "on" not in found:
        return text if last else ""
    rounds, on = len(found["on"]["accuracy"]), found["on"]
    caught = f"{on['liars limited']} of {liars * rounds}, " if liars else ""
    return f"{text}; {caught}{on['honest limited']} of {(CLIENTS - liars) * rounds}"


def main() -> None:
    """Run what is not kept yet, or print what is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--only", default="", help="part of the plan's words")
    args = parser.parse_args()
    runs = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else []
    if args.command == "table":
        print(table(runs))
        return
    done = {tuple(run[key] for key in ("codec", "split", "kind", "liars", "defence")) for run in runs}
    with tempfile.TemporaryDirectory(prefix="deltamask-liars-cache-") as cache:
        for plan in plans():
            if plan not in done and args.only in " ".join(map(str, plan)):
                runs.append(play(*plan, Path(cache)))
                RESULT.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
                print(runs[-1], flush=True)


if __name__ == "__main__":
    main()
