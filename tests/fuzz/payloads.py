"""Payloads on their way up: of every codec, of signs, and of plain numbers; and what explains them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from common.codecs import SharedState, codec_of, get_codec
from common.methods.fedavg.payload import LARGEST, pack_empty, pack_weights, unpack_weights, weights_digest
from common.methods.hidenseek.signs import SIGNS, SignState, encode_signs, on_grid
from common.methods.lotteryfl.ticket import pack_ticket, unpack_ticket
from common.theta import ONE
from common.wire import HEADER_BYTES, PLAIN, Header, unpack_payload
from deltamask_server.tools.cli.inspect import explain, picture_of
from tests.attacks.targets import CODECS, check_mask, target
from tests.attacks.test_bit_flips import repaired
from tests.codecs.cases import sent
from tests.conftest import local_step, shared_state
from tests.fuzz.case import Case, Target, memory_for
from tests.fuzz.mutations import EXTREMES, mutate, mutated_within, one_of

__all__ = ["changed_payload", "payload_targets"]

SIZES = {400: 6.0, 3_000: 3.0, 20_000: 2.0, 200_000: 0.1}
"""Masked weights, and how often payloads are of models with so many."""
_MOST_CHANGE = 65 * ONE
"""The largest gain is 64; what mistakes are corrected by comes on top."""
_N = slice(18, 22)
"""The header's n."""


def payload_targets() -> dict[str, Callable[[], Target]]:
    """By name, made when they are asked for: an honest payload of a large model takes a while."""
    targets: dict[str, Callable[[], Target]] = {name: lambda name=name: _codec(name) for name in CODECS}
    return targets | {
        "signs": _signs,
        "scores": _scores,
        "weights": _weights,
        "ticket": _ticket,
        "inspect": _inspect,
    }


def changed_payload(rng: Generator, honest: Sequence[bytes]) -> bytes:
    """A payload with another header or body, whose checksum fits, most of the time."""
    payload = one_of(rng, honest)
    header, body = payload[:HEADER_BYTES], payload[HEADER_BYTES:]
    kind = int(rng.integers(20))
    if kind == 0:
        return mutate(rng, payload, honest)
    if kind == 1:
        header = mutated_within(rng, header) if rng.integers(2) else _another_kind(rng, header)
    elif kind < 5:
        header = _another_n(rng, header)
    if kind != 1 and (kind != 2 or not rng.integers(2)):
        body = mutate(rng, body, [other[HEADER_BYTES:] for other in honest])
    return repaired(header + body)


def _another_kind(rng: Generator, header: bytes) -> bytes:
    """Another version, method, codec or gain, mostly one that there is."""
    at, values = ((2, 4), (3, 6), (4, 10), (5, 256))[int(rng.integers(4))]
    return header[:at] + bytes([int(rng.integers(values))]) + header[at + 1 :]


def _another_n(rng: Generator, header: bytes) -> bytes:
    d, n = struct.unpack_from("<II", header, 14)
    any_n, extreme = int(rng.integers(d + 1)), EXTREMES[int(rng.integers(len(EXTREMES)))]
    others = (0, 1, d, d + 1, n + 1, n - 1, any_n, extreme)
    found = others[int(rng.integers(len(others)))] % 2**32
    return header[: _N.start] + struct.pack("<I", found) + header[_N.stop :]


# -- codecs ------------------------------------------------------------------------------------------------------------


def _codec(name: str) -> Target:
    """What the server does under ``beta``, and under ``flips``, where a change may count more than once."""
    cases = []
    for d, weight in SIZES.items():
        attack = target(name, d)
        shared = attack.shared
        nothing = attack.codec.encode((shared.theta / np.float32(ONE)).astype(np.float32), shared)
        kind, options = CODECS[name]
        gained = get_codec(kind, **options, gain=4.0).encode(local_step(shared.theta, seed=6), shared)
        honest = (attack.payload, nothing)
        for what, sent_payloads, read, share in (
            ("mask", honest, _read_mask(shared), 1.0),
            ("change", (*honest, gained), _read_change(shared), 0.5),
        ):
            change = _changes(sent_payloads)
            cases.append(
                Case(f"{what}, d = {d:,}", sent_payloads, change, read, memory=memory_for(d), weight=weight * share)
            )
    return Target(name, cases)


def _changes(honest: Sequence[bytes]) -> Callable[[Generator], bytes]:
    return lambda rng: changed_payload(rng, honest)


def _read_mask(shared: SharedState) -> Callable[[bytes], None]:
    def read(payload: bytes) -> None:
        check_mask(codec_of(payload).decode(payload, shared), payload, shared)

    return read


def _read_change(shared: SharedState) -> Callable[[bytes], None]:
    def read(payload: bytes) -> None:
        change = codec_of(payload).change(payload, shared)
        assert change.shape == (shared.d,)
        assert change.dtype == np.int32
        assert np.abs(change).max() <= _MOST_CHANGE, "a change is larger than any gain makes it"

    return read


def _signs() -> Target:
    """What HideNseek's server folds: the signs that turned, or all of them."""
    cases = []
    for d, weight in SIZES.items():
        rng = np.random.default_rng(d)
        shared = SignState(on_grid(rng.random(d) < 0.6), 1, 3, 2, (d // 3, d - d // 3))
        few, many = (shared.mask() ^ (rng.random(d) < share) for share in (0.01, 0.4))
        honest = tuple(encode_signs(signs, shared, codec) for signs in (few, many) for codec in ("exact", "bitmap"))
        read = _read_mask(shared)
        cases.append(Case(f"d = {d:,}", honest, _changes(honest), read, memory=memory_for(d), weight=weight))
    return Target("signs", cases)


# -- plain numbers -----------------------------------------------------------------------------------------------------

_BASE = b"12345678"


def _numbers(d: int) -> np.ndarray:
    return np.random.default_rng(d).standard_normal(d).astype(np.float32)


def _check_numbers(values: np.ndarray, count: int) -> None:
    assert values.shape == (count,)
    assert values.dtype == np.float32
    assert (np.abs(values) <= LARGEST).all()


def _of_weights(name: str, **method: int) -> list[Case]:
    cases = []
    for d, weight in SIZES.items():
        base = weights_digest(_numbers(d))
        honest = (pack_weights(_numbers(d), 3, 2, base, **method), pack_weights(-_numbers(d), 3, 2, base, **method))

        def read(payload: bytes, d: int = d, base: bytes = base) -> None:
            _check_numbers(unpack_weights(payload, d, 3, 2, base, **method), d)

        cases.append(Case(f"{name}, d = {d:,}", honest, _changes(honest), read, memory=memory_for(d), weight=weight))
    return cases


def _weights() -> Target:
    """FedAvg's."""
    return Target("weights", _of_weights("weights"))


def _scores() -> Target:
    """HideNseek's scores, and the payload of a client that keeps what it learnt."""
    empty = (pack_empty(SIGNS, 3, 2),)
    expected = Header(PLAIN, 3, 2, 0, 0, bytes(8), SIGNS)
    nothing = Case("nothing is sent", empty, _changes(empty), lambda payload: unpack_payload(payload, expected))
    return Target("scores", [*_of_weights("scores", method=SIGNS), nothing])


def _ticket() -> Target:
    """LotteryFL's."""
    cases = []
    for d, weight in SIZES.items():
        kept = (np.random.default_rng(d + share).random(d) < share / 10 for share in (0, 3, 10))
        honest = tuple(pack_ticket(_numbers(d), mask, 3, 2, _BASE) for mask in kept)

        def read(payload: bytes, d: int = d) -> None:
            kept, values = unpack_ticket(payload, d, 3, 2, _BASE)
            assert kept.shape == (d,)
            assert kept.dtype == np.bool_
            _check_numbers(values, int(np.count_nonzero(kept)))
            assert len(values) == sent(payload)

        cases.append(Case(f"d = {d:,}", honest, _changes(honest), read, memory=memory_for(d), weight=weight))
    return Target("ticket", cases)


# -- for people --------------------------------------------------------------------------------------------------------


def _inspect() -> Target:
    """What ``deltamask inspect`` says of a file, whose header is compared with nothing."""
    states = [shared_state(d) for d in (400, 20_000)]
    honest = [target(name, d).payload for name in CODECS for d in (400, 20_000)]
    honest += [pack_weights(_numbers(400), 3, 2, _BASE), pack_empty(SIGNS, 3, 2)]
    honest += [pack_ticket(_numbers(400), np.arange(400) % 3 > 0, 3, 2, _BASE)]
    honest += [get_codec("exact").encode(local_step(state.theta, seed=7, moved=0.01), state) for state in states]

    def read(payload: bytes) -> None:
        lines, refused = explain(payload)
        assert all(name.isprintable() and value.isprintable() for name, value in lines)
        if refused is not None:
            raise refused
        picture_of(payload)

    case = Case("a file", tuple(honest), _changes(honest), read)
    return Target("inspect", [case])
