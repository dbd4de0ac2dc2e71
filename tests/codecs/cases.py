"""States and local probabilities at the edges of what a codec may meet, and payloads damaged on purpose."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.codecs import Codec, SharedState
from common.codecs.base import DeltaCodec
from common.theta import probabilities, quantise
from common.wire import Header, pack_payload
from tests.conftest import local_step, shared_state

sizes = st.one_of(st.integers(1, 300), st.integers(1, 100_000))
kinds = st.sampled_from(["same", "ones", "zeros", "step", "any"])
seeds = st.integers(0, 2**32)


def any_case(d: int, seed: int, kind: str) -> tuple[SharedState, NDArray[np.float32]]:
    """Any theta, any layers, and local probabilities of a kind."""
    rng = np.random.default_rng(seed)
    theta = rng.integers(1, 65536, d, dtype=np.uint16)
    if seed % 3 == 0:
        theta[:] = quantise(0.95)
    cuts = np.sort(rng.integers(0, d + 1, seed % 7))
    segments = tuple(np.diff(np.concatenate([[0], cuts, [d]])).tolist())  # some may be empty
    local = {
        "same": lambda: probabilities(theta),
        "ones": lambda: np.ones(d, np.float32),
        "zeros": lambda: np.zeros(d, np.float32),
        "step": lambda: local_step(theta, seed),
        "any": lambda: rng.random(d, dtype=np.float32),
    }[kind]()
    return SharedState(theta, seed=seed, round=1, slot=0, segments=segments), local


def realistic(kind: str, d: int = 200_000) -> tuple[SharedState, NDArray[np.float32]]:
    """After a few rounds (theta a mean of ten masks), or in the first one (constant)."""
    first = SharedState(np.full(d, quantise(0.95)), seed=1, round=1, slot=0)
    shared = first if kind == "first" else shared_state(d)
    return shared, local_step(shared.theta, seed=5)


def delta(theta_local: NDArray[np.float32], shared: SharedState, keep: float = 1.0) -> NDArray[np.int64]:
    """What a delta codec is to send, whatever it is coded with."""
    return DeltaCodec.selected_delta(_AnyDelta(keep), theta_local, shared)


class _AnyDelta(DeltaCodec):
    def encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        raise NotImplementedError

    def decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        raise NotImplementedError


def plain_entropy_bits(n: int, d: int) -> float:
    """d * H(n / d)."""
    if n in (0, d):
        return 0.0
    p = n / d
    return float(-d * (p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def sent(payload: bytes) -> int:
    """The header's n."""
    return int(struct.unpack_from("<I", payload, 18)[0])


def repack(codec: Codec, shared: SharedState, n: int, body: bytes) -> bytes:
    """A payload whose header and checksum are right, whatever the body is."""
    return pack_payload(Header(codec.number, shared.round, shared.slot, shared.d, n, shared.digest), body)
