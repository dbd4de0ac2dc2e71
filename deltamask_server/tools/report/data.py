"""What a report reads of a run's folder: results.json, checked, and the payload that was kept.

The file is our own, but another version may have written it, and a run that is under way lacks what comes later. What
is always there is required; what came with a later version, or comes late in a run, may be missing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import DataError
from deltamask_server.results_file import read_results

__all__ = [
    "ClassFigures",
    "Clients",
    "HeadRound",
    "Kept",
    "KeptPayload",
    "OwnImages",
    "Round",
    "Run",
    "Traffic",
    "parse_run",
    "read_run",
]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
"""A measured number; None where there is none, or it is not finite."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Traffic(_Part):
    """Bytes in one direction, by client."""

    payload_bytes: dict[int, int]
    bpp: Figure = None

    @property
    def total(self) -> int:
        """Bytes of all clients."""
        return sum(self.payload_bytes.values())


class Clients(_Part):
    """How many were asked, and what became of the others."""

    asked: int
    ok: int
    failed: dict[str, int] = Field(default_factory=dict)
    failed_clients: dict[int, str] = Field(default_factory=dict)


class OwnImages(_Part):
    """Accuracies that clients found, on held-out images or with their own models."""

    class Client(_Part):
        """Of one client."""

        accuracy: Figure
        examples: int

    mean: Figure = None
    worst_decile: Figure = None
    std: Figure = None
    clients: dict[int, Client] = Field(default_factory=dict)
    failed: dict[str, int] = Field(default_factory=dict)


class ClassFigures(_Part):
    """How well classes are told apart."""

    balanced_accuracy: Figure = None
    macro_f1: Figure = None
    recall: list[Figure] = Field(default_factory=list)
    confusion: list[list[int]] | None = None


class Kept(_Part):
    """The model that the run keeps; round 0 is the head alone."""

    round: int
    held_out_accuracy: Figure = None
    held_out_head: Figure = None
    held_out_last: Figure = None
    accuracy: Figure = None
    classes: ClassFigures | None = None


class HeadRound(_Part):
    """The head's fit, before round 1."""

    accuracy: Figure
    uplink: Traffic
    clients: Clients
    seconds: float
    broken_images: dict[int, int] = Field(default_factory=dict)
    downlink: Traffic | None = None
    """Of the first model, where clients were asked about the head alone."""


class Round(_Part):
    """One round of training."""

    class Train(_Part):
        """Means over the clients, by examples."""

        loss: Figure = None
        accuracy: Figure = None

    number: int = Field(alias="round")
    accuracy: dict[str, Figure] | None
    train: Train = Train()
    uplink: Traffic
    downlink: Traffic
    clients: Clients
    seconds: dict[str, float]
    digest: str = ""
    classes: ClassFigures | None = None
    personal: OwnImages | None = None
    validation: OwnImages | None = None
    broken_images: dict[int, int] = Field(default_factory=dict)


class Model(_Part):
    """The frozen network."""

    name: str
    masked_parameters: int = Field(gt=0)
    masked_tensors: int = 0
    digest: str = ""
    kept_parameters: int | None = None


class Data(_Part):
    """The server's test images."""

    classes: list[str]
    test_images: int
    broken_test_images: int = 0


class KeptPayload(_Part):
    """Whose payload of which round lies in payload.bin."""

    round: int
    client: int
    bytes: int


class Results(_Part):
    """All of results.json."""

    status: str
    reason: str = ""
    config: dict[str, Any]
    versions: dict[str, str] = Field(default_factory=dict)
    data: Data | None = None
    model: Model | None = None
    head: HeadRound | None = Field(default=None, alias="linear_probe")
    rounds: list[Round]
    payload: KeptPayload | None = None
    kept: Kept | None = None


class Run(_Part):
    """A run's folder, as far as a report goes.

    Attributes
    ----------
    name
        Of the folder.
    results
        Of results.json.
    payload
        The kept payload's bytes; None where there is none, or not the one that results.json names.
    """

    name: str
    results: Results
    payload: bytes | None = None


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises
    ------
    DataError
        If it is none, or its results.json cannot be read or lacks something.
    """
    path = folder / "results.json"
    try:
        results = read_results(folder)
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no results.json in it; name the folder of a run, for instance runs/latest"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON: {error}") from error
    return parse_run(folder, results)


def parse_run(folder: Path, results: Any) -> Run:
    """Check what is in results.json, and read the payload beside it; raises DataError."""
    try:
        parsed = Results.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(
            f"{folder / 'results.json'}: {where}: {first['msg']}; another version of DeltaMask may have written it"
        ) from error
    return Run(name=folder.resolve().name, results=parsed, payload=_read_payload(folder, parsed.payload))


def _read_payload(folder: Path, kept: KeptPayload | None) -> bytes | None:
    """The payload, unless a round has replaced it since."""
    if kept is None:
        return None
    try:
        payload = (folder / "payload.bin").read_bytes()
    except OSError:
        return None
    return payload if len(payload) == kept.bytes else None
