"""What a run leaves behind: ``runs/<id>/`` with results.json, rounds.jsonl, payload.bin, model.safetensors,
report.html, resume.toml and ``checkpoints/``, and ``runs/latest`` pointing to it.

A round is a line appended to ``rounds.jsonl``, and ``payload.bin`` is replaced; ``results.json`` gets the rounds when
the run ends (`deltamask_server.results_file` reads both until then). Files are never half-written. ``deltamask report``
makes the page of a run that was cut off.

A disk that is full while a run goes on does not end it: what could not be written is written after the next round, and
only the end of a run must be written or it is an error.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from common.config.run import as_toml
from common.files import replacing
from common.models.accuracy import Scored
from common.models.heads import Head
from common.saved import Saved
from deltamask_server.checkpoints import Checkpoints
from deltamask_server.entries import broken, by_client, figures, replies, traffic
from deltamask_server.kept import Keeper
from deltamask_server.processes import this_process
from deltamask_server.results_file import place_earlier, place_rounds, read_rounds
from deltamask_server.round_report import RoundReport
from deltamask_server.tally import Tally
from deltamask_server.tools.report import parse_run, write_report
from deltamask_server.validation import personal_entry, validation_entry

__all__ = ["RunFolder"]

_PACKAGES = ("deltamask", "flwr", "torch", "timm", "numpy", "pyfusefilter", "numba", "pillow")


class RunFolder:
    """Writes one run's files.

    Parameters
    ----------
    path
        The run's own folder, which exists.
    results
        What results.json begins with.
    """

    def __init__(self, path: Path, results: dict[str, Any]) -> None:
        self.path, self.results = path, results
        self._masked = 1
        self._unwritten: list[str] = []  # lines of rounds.jsonl
        self._replace("results.json", self._results_text())
        self._replace("resume.toml", _resume_text(path, results["config"]))
        self._point_latest()

    @classmethod
    def create(cls, output_dir: Path, run_id: int, config: dict[str, Any]) -> Self:
        """The folder of a new run.

        Parameters
        ----------
        output_dir
            The folder of all runs.
        run_id
            Flower's number of this run.
        config
            The run config with every default filled in, kebab-case.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        path = output_dir.expanduser().resolve() / f"{stamp}-{run_id}"
        path.mkdir(parents=True)
        return cls(
            path, {"status": "running", "config": config, "versions": _versions(), **this_process(), "rounds": []}
        )

    @classmethod
    def take_up(cls, path: Path, run_id: int, config: dict[str, Any], after_round: int) -> Self:
        """The folder of a run that goes on after a round; parameters as of `create`. What it says of later rounds is
        removed: they will be run again.

        Raises
        ------
        OSError, ValueError
            If it cannot be read or written.
        """
        results = json.loads((path / "results.json").read_bytes())
        for key in ("reason", "kept", "payload"):
            results.pop(key, None)
        again = {"after_round": after_round, "run_id": str(run_id), "versions": _versions()}
        results |= {"status": "running", "config": config, **this_process(), "rounds": []}
        results["resumed"] = [*results.get("resumed", []), again]
        lines = [entry for entry in read_rounds(path) if entry["round"] <= after_round]
        text = "".join(json.dumps(entry) + "\n" for entry in lines)
        with replacing(path / "rounds.jsonl", mode=0o644, fsync=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
        folder = cls(path, results)
        place_rounds(results, lines)
        return folder

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

    def set_data(
        self, classes: tuple[str, ...], test_images: int, broken: int, files: Mapping[str, int] | None = None
    ) -> None:
        """Record the class list and the server's test images; ``broken`` of them could not be read. ``files``: what
        became of the files of its folder (`common.data.inventory.COUNTED`).
        """
        self.results["data"] = {"classes": list(classes), "test_images": test_images, "broken_test_images": broken}
        if files is not None:
            self.results["data"]["files"] = dict(files)
        self._write_results()

    def set_sites(self, files: Mapping[int, Mapping[str, int]]) -> None:
        """Record what became of the files of each client that has a folder of its own; those that are gone stay."""
        sites = self.results.get("sites", {}) | {str(client): dict(files[client]) for client in sorted(files)}
        if sites != self.results.get("sites", {}):
            self.results["sites"] = sites
            self._write_results()

    def set_linear_probe(self, scored: Scored, tally: Tally, seconds: float) -> None:
        """Record the head round, of whatever kind, and how good its linear classifier is on the frozen features, which
        masked training starts from.
        """
        self.results["linear_probe"] = {
            "accuracy": scored.accuracy,
            "classes": figures(scored),
            "uplink": traffic(tally.payload_bytes, self._masked),
            "clients": replies(tally),
            "broken_images": broken(tally),
            "seconds": seconds,
        }
        self._write_results()

    def set_head_validation(self, tally: Tally, downlink_bytes: dict[int, int]) -> None:
        """Record how good the head alone is on the images that clients hold out."""
        self.results["linear_probe"] |= {
            "validation": validation_entry(tally),
            "downlink": traffic(downlink_bytes, self._masked),
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
            "classes": None if scored is None else figures(scored, confusion=True),
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
            "classes": None if scored is None else figures(scored),
            "train": tally.fit,
            "uplink": {**traffic(tally.payload_bytes, self._masked), "record_bytes": by_client(tally.record_bytes)},
            "downlink": traffic(report.downlink_bytes, self._masked),
            "clients": replies(tally),
            "broken_images": broken(tally),
            "personal": personal_entry(tally),
            "validation": None if report.validation is None else validation_entry(report.validation),
            "seconds": {phase: round(value, 3) for phase, value in report.seconds.items()},
            "digest": report.digest.hex(),
        }
        if report.payload is not None:
            client, payload = report.payload
            self._attempt("payload.bin", lambda: self._replace("payload.bin", payload))
            entry["payload"] = {"client": client, "bytes": len(payload)}
            self.results["payload"] = {"round": report.server_round, **entry["payload"]}
        earlier = report.earlier and {"round": report.earlier[0], "validation": validation_entry(report.earlier[1])}
        place_earlier(self.results, earlier)
        self.results["rounds"].append(entry)
        self._unwritten.append(json.dumps(entry | ({"earlier": earlier} if earlier else {})) + "\n")
        self._attempt("rounds.jsonl", self._append_rounds)
        return entry

    def save_checkpoint(self, checkpoints: Checkpoints, server_round: int, saved: Saved, first_run: int) -> None:
        """Write the state after a round, once everything before it is written."""

        def write() -> None:
            if self._unwritten:
                raise OSError("rounds.jsonl lacks a round")
            checkpoints.write(server_round, saved, self.results["config"], first_run)

        self._attempt("the checkpoint", write)

    def keep_model(self, tensors: dict[str, torch.Tensor], head: Head) -> None:
        """`save_model` while the run goes on: a full disk does not end it."""
        self._attempt("model.safetensors", lambda: self.save_model(tensors, head))

    def save_model(self, tensors: dict[str, torch.Tensor], head: Head) -> Path:
        """Write the global model of a method and its head; the frozen weights stay where they came from.

        Raises
        ------
        OSError
            If the disk does not take it.
        """
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
        try:
            with replacing(path, mode=0o644, fsync=True) as temporary:
                save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"{path}: {error}") from error
        return path

    def finish(self, status: str, reason: str = "") -> None:
        """Record the outcome, ``completed``, or ``failed`` or ``stopped`` with its reason; and write the page.

        Raises
        ------
        OSError
            If the disk does not take it.
        """
        self.results["status"] = status
        if reason:
            self.results["reason"] = reason
        self._write_report()  # first: who waits for the status finds the page
        self._attempt("rounds.jsonl", self._append_rounds)
        self._replace("results.json", self._results_text())

    def _write_report(self) -> None:
        try:
            # By way of JSON, so that the page is the one that `deltamask report` makes.
            write_report(parse_run(self.path, json.loads(json.dumps(self.results))), self.path / "report.html")
        except Exception as error:  # a page to look at must not cost a run
            print(f"  report.html could not be written: {type(error).__name__}: {error}")

    def _write_results(self) -> None:
        self._attempt("results.json", lambda: self._replace("results.json", self._results_text()))

    def _results_text(self) -> bytes:
        return (json.dumps(self.results, indent=1) + "\n").encode()

    def _append_rounds(self) -> None:
        """Append what is not written yet, all of it or nothing."""
        path = self.path / "rounds.jsonl"
        with path.open("ab") as file:
            before = file.tell()
            try:
                file.write("".join(self._unwritten).encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
        self._unwritten = []

    def _attempt(self, what: str, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            print(f"  {what} could not be written: {error}; it is tried again after the next round", flush=True)

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


def _resume_text(path: Path, config: Mapping[str, Any]) -> bytes:
    """A run config that goes on with this run."""
    about = "# Goes on with this run after its last checkpoint:  flwr run . CONNECTION --stream --run-config THIS-FILE"
    return f"{about}\n{as_toml({**config, 'resume': str(path)})}".encode()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a bundle in an environment without the project itself
            continue
    return found
