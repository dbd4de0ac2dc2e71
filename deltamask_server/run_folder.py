"""What a run leaves behind: ``runs/<id>/`` with results.json, rounds.jsonl, payload.bin, model.safetensors and
report.html, and ``runs/latest`` pointing to it.

A round is a line appended to ``rounds.jsonl``, and ``payload.bin`` is replaced; ``results.json`` gets the rounds when
the run ends (`deltamask_server.results_file` reads both until then). Files are never half-written. ``deltamask report``
makes the page of a run that was cut off.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.files import replacing
from common.models.accuracy import Scored
from common.models.class_figures import class_figures
from common.models.heads import Head
from deltamask_server.kept import Keeper
from deltamask_server.results_file import place_earlier
from deltamask_server.round_report import RoundReport
from deltamask_server.tally import Tally
from deltamask_server.tools.report import parse_run, write_report
from deltamask_server.validation import personal_entry, validation_entry

__all__ = ["RunFolder"]

_MOST_CLASSES = 100
"""In a confusion matrix that is written."""
_PACKAGES = ("deltamask", "flwr", "torch", "timm", "numpy", "pyfusefilter", "numba", "pillow")


class RunFolder:
    """Writes one run's files.

    Parameters
    ----------
    output_dir
        The folder of all runs.
    run_id
        Flower's number of this run.
    config
        The run config with every default filled in, kebab-case.
    """

    def __init__(self, output_dir: Path, run_id: int, config: dict[str, Any]) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.path = output_dir.expanduser().resolve() / f"{stamp}-{run_id}"
        self.path.mkdir(parents=True)
        self.results: dict[str, Any] = {"status": "running", "config": config, "versions": _versions(), "rounds": []}
        self._masked = 1
        self._write_results()
        self._point_latest()

    def set_model(self, name: str, digest: bytes, segments: tuple[int, ...], kept: int | None = None) -> None:
        """Record the frozen model, and how many of its masked weights pruning has kept."""
        self._masked = sum(segments)
        self.results["model"] = {
            "name": name,
            "masked_parameters": self._masked,
            "masked_tensors": len(segments),
            "digest": digest.hex(),
            **({} if kept is None else {"kept_parameters": kept}),
        }
        self._write_results()

    def set_data(self, classes: tuple[str, ...], test_images: int, broken: int) -> None:
        """Record the class list and the server's test images; ``broken`` of them could not be read."""
        self.results["data"] = {"classes": list(classes), "test_images": test_images, "broken_test_images": broken}
        self._write_results()

    def set_linear_probe(self, scored: Scored, tally: Tally, seconds: float) -> None:
        """Record the head round, of whatever kind, and how good its linear classifier is on the frozen features, which
        masked training starts from.
        """
        self.results["linear_probe"] = {
            "accuracy": scored.accuracy,
            "classes": _figures(scored),
            "uplink": _traffic(tally.payload_bytes, self._masked),
            "clients": _clients(tally),
            "broken_images": _broken(tally),
            "seconds": seconds,
        }
        self._write_results()

    def set_head_validation(self, tally: Tally, downlink_bytes: dict[int, int]) -> None:
        """Record how good the head alone is on the images that clients hold out."""
        self.results["linear_probe"] |= {
            "validation": validation_entry(tally),
            "downlink": _traffic(downlink_bytes, self._masked),
        }
        self._write_results()

    def set_kept(self, keeper: Keeper, last_round: int, tested: Mapping[int, Scored]) -> None:
        """Record which round's model the run keeps, and how good it is on the server's test images, if they were asked
        about it.
        """
        best = keeper.best
        kept = last_round if best is None else best.server_round
        scored = tested.get(kept)
        self.results["kept"] = {
            "round": kept,
            "held_out_accuracy": None if best is None else best.accuracy,
            "held_out_head": keeper.first,
            "held_out_last": keeper.checked[-1][1] if keeper.checked else None,
            "accuracy": None if scored is None else scored.accuracy,
            "classes": None if scored is None else _figures(scored, confusion=True),
        }
        self._write_results()

    def add_round(self, report: RoundReport, scored: Scored | None = None) -> dict[str, Any]:
        """Record a round, and return its entry. Accuracy, classes, personal and validation are null where there was
        none; what this round's clients said of an earlier one's model goes to that round's entry.
        """
        tally = report.tally
        entry: dict[str, Any] = {
            "round": report.server_round,
            "accuracy": None if report.evaluation is None else dict(report.evaluation),
            "classes": None if scored is None else _figures(scored),
            "train": {"loss": tally.mean("loss"), "accuracy": tally.mean("accuracy")},
            "uplink": {**_traffic(tally.payload_bytes, self._masked), "record_bytes": _by_client(tally.record_bytes)},
            "downlink": _traffic(report.downlink_bytes, self._masked),
            "clients": _clients(tally),
            "broken_images": _broken(tally),
            "personal": personal_entry(tally),
            "validation": None if report.validation is None else validation_entry(report.validation),
            "seconds": {phase: round(value, 3) for phase, value in report.seconds.items()},
            "digest": report.digest.hex(),
        }
        if report.payload is not None:
            client, payload = report.payload
            self._replace("payload.bin", payload)
            entry["payload"] = {"client": client, "bytes": len(payload)}
            self.results["payload"] = {"round": report.server_round, **entry["payload"]}
        earlier = report.earlier and {"round": report.earlier[0], "validation": validation_entry(report.earlier[1])}
        place_earlier(self.results, earlier)
        self.results["rounds"].append(entry)
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry | ({"earlier": earlier} if earlier else {})) + "\n")
        return entry

    def save_model(self, tensors: dict[str, torch.Tensor], head: Head) -> Path:
        """Write the global model of a method and its head; the frozen weights stay where they came from."""
        path = self.path / "model.safetensors"
        tensors = tensors | {name: torch.from_numpy(values) for name, values in head.tensors().items()}
        model = self.results["model"]
        metadata = {
            "format": f"{self.results['config']['method']}-v1",
            "backbone": str(model["name"]),
            "backbone_digest": str(model["digest"]),
            "classes": json.dumps(self.results.get("data", {}).get("classes", [])),
            "config": json.dumps(self.results["config"]),
        }
        save_file(tensors, path, metadata)
        return path

    def finish(self, status: str, reason: str = "") -> None:
        """Record the outcome: ``completed`` or ``failed`` with its reason; and write the page."""
        self.results["status"] = status
        if reason:
            self.results["reason"] = reason
        self._write_report()  # first: who waits for the status finds the page
        self._write_results()

    def _write_report(self) -> None:
        try:
            # By way of JSON, so that the page is the one that `deltamask report` makes.
            write_report(parse_run(self.path, json.loads(json.dumps(self.results))), self.path / "report.html")
        except Exception as error:  # a page to look at must not cost a run
            print(f"  report.html could not be written: {type(error).__name__}: {error}")

    def _write_results(self) -> None:
        self._replace("results.json", (json.dumps(self.results, indent=1) + "\n").encode())

    def _replace(self, name: str, content: bytes) -> None:
        with replacing(self.path / name, mode=0o644) as path:
            path.write_bytes(content)

    def _point_latest(self) -> None:
        link = self.path.parent / f".latest-{self.path.name}"
        try:
            link.symlink_to(self.path.name)
            os.replace(link, self.path.parent / "latest")
        except OSError:  # a file system without links: the summary names the folder anyway
            link.unlink(missing_ok=True)


def _figures(scored: Scored, confusion: bool = False) -> dict[str, Any]:
    """Each class counting the same; the confusion matrix where it can be read."""
    figures = class_figures(scored.confusion)
    found: dict[str, Any] = {
        "balanced_accuracy": figures.balanced_accuracy,
        "macro_f1": figures.macro_f1,
        "recall": list(figures.recall),
    }
    if confusion and len(figures.recall) <= _MOST_CLASSES:
        found["confusion"] = scored.confusion.tolist()
    return found


def _by_client(values: dict[int, int]) -> dict[str, int]:
    return {str(client): values[client] for client in sorted(values)}


def _traffic(payload_bytes: dict[int, int], masked: int) -> dict[str, Any]:
    """Bytes by client, and their mean in bits for each masked parameter."""
    mean = sum(payload_bytes.values()) / len(payload_bytes) if payload_bytes else 0.0
    return {"payload_bytes": _by_client(payload_bytes), "bpp": 8 * mean / masked}


def _clients(tally: Tally) -> dict[str, Any]:
    return {
        "asked": len(tally.asked),
        "ok": len(tally.payload_bytes),
        "failed": dict(sorted(tally.dropped.items())),
        "failed_clients": {str(client): tally.failures[client] for client in sorted(tally.failures)},
    }


def _broken(tally: Tally) -> dict[str, int]:
    """Images that could not be read, by the clients that have some."""
    counts = {client: int(values.get("broken", 0)) for client, values in sorted(tally.metrics.items())}
    return {str(client): count for client, count in counts.items() if count}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a bundle in an environment without the project itself
            continue
    return found
