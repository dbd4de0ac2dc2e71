"""What else than theta travels down: the weights of FedAvg and LotteryFL, and what HideNseek's pruning has left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from common.errors import PayloadError
from common.methods.fedavg.payload import LARGEST, read_weights
from common.methods.hidenseek.subnetwork import Subnetwork
from common.methods.lotteryfl.downwards import pack_everything, pack_kept, unpack_global_weights
from common.models.heads import Head
from tests.fuzz.case import Case, Target, memory_for
from tests.fuzz.mutations import mutate, one_of
from tests.fuzz.payloads import changed_payload

__all__ = ["downward_targets"]

_SIZES = (400, 5_000)
_CLASSES, _FEATURES = 3, 4
_DIGEST = 8
"""Bytes in front of what is sent under LotteryFL (two digests), and of a subnetwork (one)."""


def downward_targets() -> dict[str, Callable[[], Target]]:
    """By name."""
    return {"weights-down": _weights, "lottery-down": _lottery, "subnetwork": _subnetwork}


def _numbers(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal(count).astype(np.float32)


def _weights() -> Target:
    """Of FedAvg, and scores."""
    cases = []
    for d in _SIZES:
        honest = (_numbers(d).astype("<f4").tobytes(), np.full(d, LARGEST, "<f4").tobytes())

        def read(data: bytes, d: int = d) -> None:
            found = read_weights(data, d)
            assert found.shape == (d,)
            assert (np.abs(found) <= LARGEST).all()

        cases.append(Case(f"d = {d:,}", honest, _any_change(honest), read, memory=memory_for(d)))
    return Target("weights-down", cases)


def _lottery() -> Target:
    """For a client that has a ticket, with and without the head that may travel beside."""
    cases = []
    for d in _SIZES:
        kept = np.random.default_rng(d).random(d) < 0.6
        tail = d - _CLASSES * (_FEATURES + 1)
        head = Head(np.ones((_CLASSES, _FEATURES), np.float32), np.zeros(_CLASSES, np.float32))
        everything = pack_everything(_numbers(tail), head, b"12345678")
        part = pack_kept(_numbers(d), kept, b"12345678")
        for beside, honest in ((head, (everything, part)), (None, (part,))):

            def read(data: bytes, beside: Head | None = beside, kept: np.ndarray = kept, tail: int = tail) -> None:
                found = unpack_global_weights(data, beside, kept, tail, _CLASSES, _FEATURES)
                assert found.weights.shape == kept.shape
                assert len(found.digest) == _DIGEST

            name = f"d = {d:,}, " + ("with a head" if beside else "without a head")
            change = _behind(2 * _DIGEST, (everything, part))
            cases.append(Case(name, honest, change, read, memory=memory_for(d)))
    return Target("lottery-down", cases)


def _subnetwork() -> Target:
    """The list of kept weights, for a client that has the server's weights."""
    cases = []
    for d in _SIZES:
        weights, segments = _numbers(d), (d // 4, d - d // 4)
        subnetworks = [Subnetwork(np.random.default_rng(share).random(d) < share / 9, segments) for share in (1, 5, 9)]
        honest = tuple(one.to_bytes(one.prepare(weights, "own")) for one in subnetworks)

        def read(data: bytes, weights: np.ndarray = weights, segments: tuple[int, ...] = segments) -> None:
            subnetwork, prepared = Subnetwork.from_bytes(data, weights, segments, "own")
            assert subnetwork.kept.shape == prepared.shape == weights.shape

        def change(rng: Generator, honest: tuple[bytes, ...] = honest) -> bytes:
            front = one_of(rng, honest)[:_DIGEST]
            return front + changed_payload(rng, [data[_DIGEST:] for data in honest])

        cases.append(Case(f"d = {d:,}", honest, change, read, errors=(PayloadError,), memory=memory_for(d)))
    return Target("subnetwork", cases)


def _any_change(honest: tuple[bytes, ...]) -> Callable[[Generator], bytes]:
    return lambda rng: mutate(rng, one_of(rng, honest), honest)


def _behind(front: int, honest: tuple[bytes, ...]) -> Callable[[Generator], bytes]:
    """Changes behind the first bytes, most of the time: those are compared with what is known."""

    def change(rng: Generator) -> bytes:
        data = one_of(rng, honest)
        if rng.integers(4) == 0:
            return mutate(rng, data, honest)
        return data[:front] + mutate(rng, data[front:], [other[front:] for other in honest])

    return change
