"""Heads, and the statistics that a head is made of."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator

from common.errors import BadMetric, PayloadError
from common.models.heads import HEADS, FittedHead, Head, Statistics
from common.models.heads.moment_head import MomentHead
from common.models.heads.moments import Moments, pack_moments
from deltamask_server.limits import ClientLimits
from tests.fuzz.case import Case, Target
from tests.fuzz.mutations import mutate, one_of

__all__ = ["head_targets"]

_SHAPES = ((3, 4), (10, 24), (2, 1))
"""Classes and features."""
_LIMITS = ClientLimits(4.0, True)
_MOST_EXAMPLES = 10**12
"""As a metric, `common.messages`."""
_EXAMPLES = struct.Struct("<Q")
"""In front of statistics here: what the reply's metrics say."""


def head_targets() -> dict[str, Callable[[], Target]]:
    """``head``, and statistics by the kind of head."""
    kinds = [name for name, kind in HEADS.items() if kind.fitted]
    return {"head": _heads} | {f"statistics-{name}": lambda name=name: _statistics(name) for name in kinds}


def _heads() -> Target:
    cases = []
    for classes, features in _SHAPES:
        honest = _some_heads(classes, features)

        def read(data: bytes, shape: tuple[int, int] = (classes, features)) -> None:
            _check_head(Head.from_bytes(data, *shape), *shape)

        cases.append(
            Case(
                f"{classes} classes, {features} features",
                honest,
                lambda rng, honest=honest: _changed(rng, one_of(rng, honest), honest),
                read,
                errors=(BadMetric,),
            )
        )
    return Target("head", cases)


def _some_heads(classes: int, features: int) -> tuple[bytes, ...]:
    rng = np.random.default_rng(features)
    weights = [scale * rng.standard_normal((classes, features)).astype(np.float32) for scale in (0, 1, 1_000)]
    return tuple(Head(weight, rng.standard_normal(classes).astype(np.float32)).to_bytes() for weight in weights)


def _check_head(head: Head, classes: int, features: int) -> None:
    """That it is one, and that every client takes it."""
    assert head.weight.shape == (classes, features)
    assert head.bias.shape == (classes,)
    assert head.weight.dtype == head.bias.dtype == np.float32
    try:
        Head.from_bytes(head.to_bytes(), classes, features)
    except PayloadError as error:
        raise AssertionError(f"what the server takes makes a head that no client takes: {error}") from error


def _statistics(name: str) -> Target:
    """What the server does: check one reply, and combine it with others."""
    kind = HEADS[name]()
    assert isinstance(kind, FittedHead)
    cases = []
    for classes, features in _SHAPES:
        honest = tuple(_EXAMPLES.pack(examples) + data for examples, data in _measured(kind, classes, features))
        cases.append(
            Case(
                f"{classes} classes, {features} features",
                honest,
                lambda rng, honest=honest, classes=classes: _changed_statistics(rng, honest, classes),
                lambda data, first=honest[0], shape=(classes, features): _combine(kind, data, first, *shape),
                errors=(BadMetric,),
            )
        )
    return Target(f"statistics-{name}", cases)


def _measured(kind: FittedHead, classes: int, features: int) -> list[tuple[int, bytes]]:
    """Examples and statistics: of all classes, of one, of a single image, and the most extreme that may be."""
    if not isinstance(kind, MomentHead):  # it sends a head, which takes long to train
        return list(zip((6, 1, 2**40), _some_heads(classes, features), strict=True))
    found = []
    for labels in (np.arange(6 * classes) % classes, np.zeros(5, np.int64), np.array([classes - 1])):
        x = np.random.default_rng(len(labels)).standard_normal((len(labels), features)) + labels[:, None]
        measured = kind.statistics(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels), classes)
        found.append((len(labels), measured))
    counts = np.full(classes, 2**32 - 1)
    within = 1e12 * (np.eye(features) if kind.matrix else np.array(1.0))
    return [*found, (int(counts.sum()), pack_moments(Moments(counts, np.full((classes, features), 1e6), within)))]


def _combine(kind: FittedHead, data: bytes, first: bytes, classes: int, features: int) -> None:
    examples = min(max(1, _EXAMPLES.unpack_from(data.ljust(_EXAMPLES.size, b"\0"))[0]), _MOST_EXAMPLES)
    statistics = data[_EXAMPLES.size :]
    kind.check(statistics, classes, features, examples)
    honest = Statistics(first[_EXAMPLES.size :], _EXAMPLES.unpack_from(first)[0])
    hostile = Statistics(statistics, examples)
    for replies in ([hostile], [honest, hostile], [honest, honest, hostile], [honest, hostile, hostile]):
        verdicts = _LIMITS.judge(kind, dict(enumerate(replies)), (classes, features))
        counted = [replies[client]._replace(factor=one.factor) for client, one in verdicts.items() if one.factor]
        try:
            head = kind.combine(counted, classes, features)
        except PayloadError as error:
            raise AssertionError(f"statistics that were checked cannot be combined: {error}") from error
        _check_head(head, classes, features)


def _changed_statistics(rng: Generator, honest: tuple[bytes, ...], classes: int) -> bytes:
    """Statistics that are others, whose examples are as many as they count, most of the time."""
    chosen = one_of(rng, honest)
    others = [data[_EXAMPLES.size :] for data in honest]
    statistics = _changed(rng, chosen[_EXAMPLES.size :], others)
    if rng.integers(8) == 0:
        return mutate(rng, chosen[: _EXAMPLES.size]) + statistics
    counted = np.frombuffer(statistics[: 4 * classes].ljust(4 * classes, b"\0"), "<u4").sum(dtype=np.uint64)
    return _EXAMPLES.pack(int(counted)) + statistics


def _changed(rng: Generator, data: bytes, others: list[bytes] | tuple[bytes, ...]) -> bytes:
    """Any change, or one of whole numbers of 4 bytes: they are what stands here."""
    if rng.integers(2):
        return mutate(rng, data, others)
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4").copy()
    for _ in range(min(int(rng.geometric(0.5)), 4)):
        at = int(rng.integers(len(words)))
        if rng.integers(4) == 0:
            words[at] = words[int(rng.integers(len(words)))]
        elif rng.integers(2):
            factor = np.float32((0.0, -1.0, 0.5, 1 + 1e-6, 3.0, 1e3, 1e6)[int(rng.integers(7))])
            with np.errstate(all="ignore"):
                words[at : at + 1] = (words[at : at + 1].view("<f4") * factor).view("<u4")
        else:
            words[at] = int(rng.integers(2**32)) >> int(rng.integers(33))
    return words.tobytes()
