"""Where weights of a backbone are: random ones, a file that the config names, or one file of the Hugging Face hub.

The hub is asked by us and not by timm or open_clip, whose
client tries for minutes where there is no network: here a short knock comes first, and the error says what to download.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from common.errors import ModelError, brief, reason_of
from common.models.tensor_files import SUFFIXES

__all__ = ["DEFAULT", "RANDOM", "HubFile", "find_weights", "local_file", "random_seed"]

RANDOM = "random"
DEFAULT = "default"
_KNOCK_SECONDS = 5.0


class HubFile(NamedTuple):
    """A file in a repository of models on the Hugging Face hub."""

    repo: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} of {constants.ENDPOINT}/{self.repo}"


def find_weights(weights: str, hub: HubFile | None, backbone: str) -> Path | None:
    """Find the file that a config value means.

    Parameters
    ----------
    weights
        ``default`` (the hub, or its cache on this machine), ``random`` or ``random:SEED``, or the path of a file.
    hub
        Where the library keeps the weights, if it does.
    backbone
        Its name, for errors.

    Returns
    -------
    A path, or None for random weights.

    Raises
    ------
    ModelError
        If there is no such file, or the seed is none; within seconds also where the hub cannot be reached.
    """
    if random_seed(weights) is not None:
        return None
    if weights != DEFAULT:
        return local_file(weights)
    if hub is None:
        raise ModelError(
            f"backbone {backbone!r}: its library knows no weights on the hub; name a file "
            "(weights='/path/to/file.safetensors'), or another tag of pre-trained weights"
        )
    return _download(hub, backbone)


def random_seed(weights: str) -> int | None:
    """Seed of the random weights that a config value means: 0 for ``random``, that of ``random:SEED``, or None if it
    means others.

    Raises
    ------
    ModelError
        If the seed is not a number from 0 to 2^63 - 1.
    """
    if weights == RANDOM:
        return 0
    if not weights.startswith(f"{RANDOM}:"):
        return None
    digits = weights.removeprefix(f"{RANDOM}:")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits) < 2**63):
        raise ModelError(
            f"weights = {brief(weights)!r}: after `random:` comes a seed, 0 to 2^63 - 1, for instance random:7"
        )
    return int(digits)


def local_file(weights: str) -> Path:
    """Weights that a config value names as a file.

    Raises
    ------
    ModelError
        If there is none on this machine, or its name has the ending of another format.
    """
    try:
        path = Path(weights).expanduser().resolve()
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, no home folder, links in a circle
        raise ModelError(f"weights = {brief(weights)!r} is no path: {reason_of(error)}") from error
    if not there:
        raise ModelError(
            f"weights = {brief(weights)!r}: there is no file at {brief(path)} on this machine; name one that is, or "
            "use `default` or `random:SEED`"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(
            f"weights = {brief(weights)!r}: weights are read from files that end in {', '.join(SUFFIXES)}; write the "
            "network's state_dict with safetensors.torch.save_file"
        )
    return path


def _download(file: HubFile, backbone: str) -> Path:
    url = f"{constants.ENDPOINT}/{file.repo}/resolve/main/{file.name}"
    cached = try_to_load_from_cache(file.repo, file.name)
    if isinstance(cached, str):
        return Path(cached)
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    elif (problem := _knock(url)) is not None:
        reason = f"{constants.ENDPOINT} cannot be reached ({problem})"
    else:
        try:
            return Path(hf_hub_download(file.repo, file.name))
        except MemoryError:
            raise
        except Exception as error:  # the hub's client raises many types
            reason = f"the hub says: {reason_of(error)}"
    raise ModelError(
        f"backbone {backbone!r}: its weights are not in this machine's cache ({constants.HF_HUB_CACHE}), and {reason}. "
        f"Download {file} where there is a network, copy it to every machine of the run, and name it: "
        f"weights='/path/to/{file.name}'"
    )


def _knock(url: str) -> str | None:
    """Why there is no connection to a URL, or None if anything answers. At most five seconds, whatever the resolver of
    names does: it cannot be interrupted, so it is left behind in a thread.
    """
    found: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_KNOCK_SECONDS).close()
            found.append(None)
        except urllib.error.HTTPError:
            found.append(None)  # an answer, if not the one wanted: the hub's own client knows what it means
        except OSError as error:
            found.append(brief(getattr(error, "reason", None) or error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_KNOCK_SECONDS)
    return found[0] if found else f"no answer in {_KNOCK_SECONDS:g} s"
