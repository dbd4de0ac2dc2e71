"""Theta and signs on their way down, by every form, alone and in chains."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from common.aggregation import Rule, fold_payload
from common.aggregation.base import Change
from common.aggregation.beta import BetaRule
from common.aggregation.flips import FlipsRule, moved
from common.codecs import SharedState, get_codec
from common.downlink import (
    MAX_STEPS,
    Relayed,
    apply_chain,
    join_chain,
    pack_change,
    pack_exact,
    pack_float32,
    pack_quantised,
    pack_relay,
    pack_same,
    pack_some,
    read_step,
)
from common.methods.hidenseek.signs import on_grid
from common.subset import share_code, subset
from common.theta import Version, quantise
from tests.conftest import local_step
from tests.fuzz.case import Case, Target, memory_for
from tests.fuzz.mutations import mutate, mutated_within
from tests.fuzz.payloads import changed_payload

__all__ = ["theta_targets"]

_SEED, _ROUND, _SLOTS = 5, 3, (0, 1, 2, 6)
_HEADER = 24
_SIZES = {300: 6.0, 3_000: 3.0, 20_000: 0.5}


def theta_targets() -> dict[str, Callable[[], Target]]:
    """By form of the versions that chains are of; and chains of several."""
    return {f"theta-{form}": lambda form=form, make=make: _target(form, make) for form, make in _FORMS.items()}


@dataclass(frozen=True)
class _Model:
    """What both sides know of one size, and the theta after a round."""

    d: int
    segments: tuple[int, ...]
    old: Version
    new: Version

    @staticmethod
    def of(d: int, signs: bool = False) -> _Model:
        rng = np.random.default_rng(d)

        def draw() -> Version:
            values = rng.binomial(10, 0.93, d)
            return Version(on_grid(values > 9) if signs else quantise(np.clip(values / 10, 0.01, 0.99)))

        return _Model(d, (d - d // 3, 0, d // 3), draw(), draw())

    def shared(self, slot: int) -> SharedState:
        return SharedState.of(self.old, _SEED, _ROUND, slot, self.segments)


# -- the cases ---------------------------------------------------------------------------------------------------------


def _target(form: str, make: Callable[[_Model], list[list[bytes]]]) -> Target:
    """For a client that holds the version before, and for one that holds nothing where that is enough."""
    cases = []
    for d, weight in _SIZES.items():
        model = _Model.of(d, signs=form == "signs")
        chains = make(model)
        inside = _inner_changes(model) if form == "relay" else None
        whole = [chain for chain in chains if read_step(chain[0], d).base is None]
        for held, known in ((model.old, chains), (None, whole)):
            if known:
                name = f"d = {d:,}, " + ("holds the version before" if held else "holds nothing")
                read = _receiver(model, held)
                change = _changes(known, inside)
                honest = tuple(map(join_chain, known))
                cases.append(Case(name, honest, change, read, memory=memory_for(d), weight=weight))
    return Target(f"theta-{form}", cases)


def _receiver(model: _Model, held: Version | None) -> Callable[[bytes], None]:
    def receive(chain: bytes) -> None:
        version = apply_chain(chain, held, model.d, _SEED, model.segments)
        assert version.theta.shape == (model.d,)
        assert version.theta.dtype == np.uint16
        assert version.theta.all(), "a probability of 0 has no score"
        last, at = b"", 0
        while at < len(chain):
            size = int.from_bytes(chain[at : at + 4], "little")
            last, at = chain[at + 4 : at + 4 + size], at + 4 + size
        assert version.digest == read_step(last, model.d).digest, "another theta than the last version names"

    return receive


def _changes(chains: list[list[bytes]], inside: Callable[[Generator], bytes] | None) -> Callable[[Generator], bytes]:
    """Chains with other versions, or in another order, whose checksums fit, most of the time."""
    bodies = [step[_HEADER:-4] for chain in chains for step in chain]
    joined = [join_chain(chain) for chain in chains]

    def change(rng: Generator) -> bytes:
        steps = list(chains[int(rng.integers(len(chains)))])
        at, kind = int(rng.integers(len(steps))), int(rng.integers(24))
        if kind == 0:
            return mutate(rng, join_chain(steps), joined)
        if kind == 1:
            steps = [steps[int(rng.integers(len(steps)))] for _ in range(int(rng.integers(2 * len(steps) + 2)))]
        elif kind == 2 and rng.integers(8) == 0:
            steps *= 1 + MAX_STEPS // int(rng.integers(1, len(steps) + 2))
        elif kind < 5:
            steps[at] = _sealed(mutated_within(rng, steps[at][:_HEADER]) + steps[at][_HEADER:-4])
        elif inside is not None and kind < 14:
            steps[at] = inside(rng)
        else:
            steps[at] = _sealed(steps[at][:_HEADER] + mutate(rng, steps[at][_HEADER:-4], bodies))
        return join_chain(steps)

    return change


def _sealed(data: bytes) -> bytes:
    """Header and body with the checksum that fits."""
    return data + struct.pack("<I", zlib.crc32(data))


# -- honest versions ---------------------------------------------------------------------------------------------------


def _float32(model: _Model) -> list[list[bytes]]:
    return [[pack_float32(model.new)]]


def _quantised(model: _Model) -> list[list[bytes]]:
    many = Version(np.random.default_rng(1).integers(1, 65_536, model.d).astype(np.uint16))
    return [[pack_quantised(version, model.segments)] for version in (model.new, many)]


def _exact(model: _Model) -> list[list[bytes]]:
    near = model.old.theta.copy()
    near[:: max(1, model.d // 9)] = model.new.theta[0]
    found = []
    for version, slots in ((model.new, _SLOTS), (Version(near), _SLOTS), (model.new, ()), (model.new, range(200))):
        found.append(pack_exact(version, model.old, _SEED, _ROUND, slots))
    return [[step] for step in found if step is not None]


def _signs(model: _Model) -> list[list[bytes]]:
    step = pack_exact(model.new, model.old, _SEED, _ROUND, ())
    assert step is not None
    return [[pack_quantised(model.new, model.segments)], [step]]


def _updates(model: _Model, codec: str, rule: Rule) -> tuple[dict[int, Relayed], Any]:
    """What clients send in a round, and what the rule has folded then."""
    sent, state = {}, rule.start(model.old.theta, None, 1)
    for slot in _SLOTS:
        shared = model.shared(slot)
        payload = get_codec(codec).encode(local_step(model.old.theta, slot + 1), shared)
        sent[slot] = Relayed(payload, 4 * slot + 1)
        state = fold_payload(rule, state, payload, shared, sent[slot].examples)
    return sent, state


def _change(model: _Model) -> list[list[bytes]]:
    chains = []
    for codec in ("exact", "fuse8"):
        rule = FlipsRule()
        sent, state = _updates(model, codec, rule)
        after, sizes = Version(rule.finish(state)[0]), {slot: len(one.payload) for slot, one in sent.items()}
        step = pack_change(after, model.old, rule.change(state), _SEED, _ROUND, sizes, model.segments)
        chains += [] if step is None else [[step]]
    return chains


def _some(model: _Model) -> list[list[bytes]]:
    chains = []
    for share, values in ((0.05, 9), (0.5, 1), (1.0, 4_000)):
        code, change = share_code(share), np.zeros(model.d, np.int32)
        at = subset(model.d, code, _SEED, _ROUND)
        change[at] = np.random.default_rng(2).integers(1, values + 1, len(at))
        after = Version(moved(model.old.theta, change, 655))
        step = pack_some(after, model.old, Change(change, 655), code, _SEED, _ROUND)
        chains += [] if step is None else [[step]]
    return chains


class _Round(NamedTuple):
    """A round to be relayed."""

    sent: dict[int, Relayed]
    pack: Callable[[Mapping[int, Relayed]], bytes]
    """The version that it gives, with these payloads or others in it."""


def _round(model: _Model, rule: Rule, codec: str) -> _Round:
    sent, state = _updates(model, codec, rule)
    after = Version(rule.finish(state)[0])
    start = rule.pack_start(rule.start(model.old.theta, None, 1), model.old.theta)

    def pack(relayed: Mapping[int, Relayed]) -> bytes:
        step = pack_relay(after, model.old, rule, start, _ROUND, relayed)
        assert step is not None
        return step

    return _Round(sent, pack)


def _rounds(model: _Model) -> list[_Round]:
    kinds = ((BetaRule(), "relative"), (FlipsRule(), "exact"), (FlipsRule(weighs=False), "bits"))
    return [_round(model, rule, codec) for rule, codec in kinds]


def _relay(model: _Model) -> list[list[bytes]]:
    return [[one.pack(one.sent)] for one in _rounds(model)]


def _inner_changes(model: _Model) -> Callable[[Generator], bytes]:
    """Relayed rounds with another payload, or another number of them; all checksums fit."""
    rounds = _rounds(model)

    def change(rng: Generator) -> bytes:
        one = rounds[int(rng.integers(len(rounds)))]
        slot = _SLOTS[int(rng.integers(len(_SLOTS)))]
        if rng.integers(16) == 0:
            return one.pack({other: one.sent[other] for other in _SLOTS[: int(rng.integers(len(_SLOTS)))]})
        payload = changed_payload(rng, [one.sent[slot].payload])
        examples = int(rng.integers(2**32)) if rng.integers(8) == 0 else one.sent[slot].examples
        return one.pack({**one.sent, slot: Relayed(payload, examples)})

    return change


def _chain(model: _Model) -> list[list[bytes]]:
    """Of several versions: for who holds nothing, there and back, and what is held already."""
    there, back = _exact(model)[0][0], pack_exact(model.old, model.new, _SEED, _ROUND, _SLOTS)
    whole = pack_quantised(model.old, model.segments)
    assert back is not None
    return [[whole, there], [there, back, there], [pack_same(model.new), there], [pack_same(model.old)]]


_FORMS: dict[str, Callable[[_Model], list[list[bytes]]]] = {
    "float32": _float32,
    "quantised": _quantised,
    "exact": _exact,
    "change": _change,
    "some": _some,
    "relay": _relay,
    "chain": _chain,
    "signs": _signs,
}
