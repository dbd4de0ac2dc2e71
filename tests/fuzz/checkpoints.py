"""Files of checkpoints: damaged, and made by somebody who has read how their digest is computed."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from safetensors.numpy import load, save

from common.config.run import RunConfig
from common.errors import CheckpointError
from common.saved import Saved
from deltamask_server.checkpoints import Checkpoints, _digest, read_checkpoint
from tests.fuzz.case import Case, Target
from tests.fuzz.mutations import mutate, one_of

__all__ = ["checkpoint_target"]

_MEMORY = Path("/dev/shm")
_DTYPES = (b"U8", b"I8", b"U16", b"I16", b"F16", b"BF16", b"F32", b"U32", b"I64", b"F64", b"BOOL", b"F8_E4M3", b"C64")
_TEXTS = (
    *("", "null", "[]", "{}", "0", '"x"', "NaN", "1e999", "-1", "true", "{", '{"round": 1}', "9" * 5_000),
    "[" * 100_000,
    '{"round": 1e999, "run": 1, "config": {}}',
    '{"round": null, "run": 1, "config": {}}',
    '{"round": 1, "run": "x", "config": {}}',
    '{"round": 1, "run": 1, "config": []}',
    '{"round": 1, "run": 1}',
)


def checkpoint_target() -> Target:
    """`deltamask_server.checkpoints.read_checkpoint`, of files of a few hundred bytes."""
    honest = tuple(_file(saved) for saved in _SAVED)
    case = Case("a file", honest, lambda rng: _changed(rng, honest), _read, errors=(CheckpointError,))
    return Target("checkpoint", [case])


_SAVED = (
    Saved(
        {"method/theta": np.arange(1, 71, dtype=np.uint16), "head/weight": np.ones((2, 3), np.float32)},
        {"method/rule": "flips", "kept/best": None, "tally": [1, 2.5, "three"]},
    ),
    Saved({"sums": np.arange(40, dtype=np.int64), "empty": np.zeros((0, 3), np.uint8)}, {}),
    Saved({}, {"alone": {"a": [1]}}),
)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is such a place: a disk takes longer to write a file than it takes to read it. Removed when
    the process ends.
    """
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None)


def _file(saved: Saved) -> bytes:
    config = RunConfig(num_server_rounds=5).as_dict()
    return Checkpoints(Path(_folder().name)).write(3, saved, config, run=2**64 - 1).read_bytes()


def _read(data: bytes) -> None:
    path = Path(_folder().name) / "round-000003.safetensors"
    path.write_bytes(data)
    found = read_checkpoint(path)
    assert type(found.server_round) is int
    assert type(found.run) is int
    assert isinstance(found.config, dict)
    assert isinstance(found.saved.values, dict)
    assert all(isinstance(array, np.ndarray) for array in found.saved.arrays.values())


def _changed(rng: Generator, honest: tuple[bytes, ...]) -> bytes:
    data = one_of(rng, honest)
    kind = int(rng.integers(8))
    if kind < 2:
        return mutate(rng, data, honest)
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if kind == 2:  # the length that safetensors needs is right
        return _joined(mutate(rng, header, [header]), body)
    if kind == 3:
        return _joined(header.replace(one_of(rng, _DTYPES), one_of(rng, _DTYPES)), body)
    return _with_digest(rng, data, json.loads(header)["__metadata__"])


def _joined(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _with_digest(rng: Generator, data: bytes, texts: dict[str, str]) -> bytes:
    """Other arrays or texts, under the digest that fits."""
    arrays: dict[str, np.ndarray] = dict(load(data))
    texts.pop("digest")
    name = str(rng.choice(list(texts)))
    kind = int(rng.integers(8))
    if kind == 0:
        del texts[name]
    elif kind == 1:
        texts["more"] = texts[name]
    elif kind < 4:
        texts[name] = _TEXTS[int(rng.integers(len(_TEXTS)))]
    elif kind < 6:
        texts[name] = mutate(rng, texts[name].encode(), [text.encode() for text in texts.values()]).decode(
            errors="replace"
        )
    elif kind == 6 and arrays:
        arrays.pop(str(rng.choice(list(arrays))))
    else:
        values: Any = np.frombuffer(rng.bytes(8 * int(rng.integers(5))), rng.choice(["<u2", "<i8", "<f4", "u1"]))
        arrays[str(rng.choice([*arrays, "more", "", "/"]))] = values
    return save(arrays, texts | {"digest": _digest(arrays, texts)})
