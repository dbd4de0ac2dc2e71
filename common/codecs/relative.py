"""``relative``: relative entropy coding. The client sends a *sample* of Bern(theta_local), and pays about the KL
divergence from Bern(theta).

Minimal random coding (Havasi, Peharz, Hernandez-Lobato 2019; for federated masks: KLMS, Isik et al., arXiv 2306.12625).
Both sides can draw the same 2^b candidate masks from the shared prior Bern(theta). The client picks one by importance
weights p(x) / q(x) and sends its index: b bits for a whole block of positions, thousands of them late in training.

* **Blocks** (our choice) follow from what both sides know and one byte a segment: the KL of a position is predicted as
  ``scale * theta (1 - theta)``, and a block is the longest run of positions that is predicted to hold no more than
  ``target`` bits. What hardly moves costs hardly anything; no boundary is sent.
* **The pick** (our choice) is random with probability proportional to ``(p/q)^tilt``, the tilt such that the
  candidates' mean log-ratio is the one that Bern(theta_local) has. Plain minimal random coding (tilt 1) needs many
  spare bits a block, or the mean of the decoded masks stops 15 % short of theta_local; matched, 2 to 5 %.
* **What is missed**: single large steps away from a value that theta makes nearly certain. A step from 0.99 to 0.72 is
  1 bit of KL, but one candidate in a hundred has the rare value: ten of 1,024 have to stand for 28 % of the samples,
  while the small steps around them ask for 7 bits more. That position then decodes to 0.80 on average. With normal or
  Laplace steps of the log-odds no more positions lie further than 3 standard errors + 0.005 from theta_local (2,000
  seeds) than chance puts there, 1 in 20,000; with Student's t with 4 degrees of freedom it is 5 to 10 in 20,000, by up
  to 0.08 (`benchmarks/relative_bias.py`; docs/algorithm.md says what would not mend it).
* **Rate control**: ``target_bpp`` scales the step between the log-odds of theta and theta_local by the largest g <= 1
  that fits. KL goes with g^2. Only the encoder knows g.

Where nothing changed there are no blocks, and the decoder returns m_g, which is a sample of Bern(theta) as good as any.
``keep`` is ignored: a sample has no delta to thin out, and its size is set by ``gain`` and ``target_bpp``.

Body, after the common header whose n is the number of blocks:

====== ============ ====================================================================================================
offset bytes        what
====== ============ ====================================================================================================
0      1            b, bits of an index, 6..14: there are 2^b candidates
1      1            target, predicted KL of a block in 1/16 bits, 1..255
2      S            one scale for each of the S segments: 0 is 0, c is 2^((c - 161) / 8) bits
..     ceil(n b/8)  the n indices of b bits, most significant bit first, without gaps; zero bits fill the last byte
====== ============ ====================================================================================================
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.codecs.base import Body, Bound, Client, Codec
from common.codecs.parallel import for_parts
from common.codecs.relative_body import FRONT_BYTES, PART, pack_indices, read_front, unpack_indices
from common.codecs.relative_kernels import (
    EXP2,
    KL_ONE,
    LOG2,
    LOG_ODDS,
    block_starts,
    choose,
    divergence,
    draw,
    shrink,
)
from common.codecs.state import SharedState
from common.config.section import Section, Sections
from common.errors import BadGeometry, ConfigError, OversizedPayload, TruncatedPayload
from common.theta import ONE, quantise
from common.uniforms import stream_key
from common.wire import HEADER_BYTES

__all__ = ["PRESETS", "Relative", "RelativeSection"]

_OCTAVE = tuple(round(2 ** (15 + i / 8)) for i in range(8))
"""2^(i / 8) in units of 2^-15; the nearest integers are at least 0.2 from a tie, so every machine rounds alike."""
_LOWEST_OCTAVE = 20
_SHORT = 1 << 13
_MAX_TRIALS = 40


class RelativeSection(Section):
    """Of the codec ``relative``."""

    title: ClassVar[str] = "Codec `relative`"
    under: ClassVar[str] = "codec"

    relative_preset: Literal["fast", "default", "small"] = Field(
        "default", description="Effort of the codec `relative`: more candidates are slower, and their payloads smaller."
    )


class _Plan(NamedTuple):
    """How an update with a certain step would be sent: one scale a layer, and the number of blocks that follows."""

    scales: bytes
    blocks: int


class _Preset(NamedTuple):
    bits: int
    target: int
    """In 1/16 bits."""


PRESETS: dict[str, _Preset] = {
    "fast": _Preset(bits=8, target=84),
    "default": _Preset(bits=10, target=112),
    "small": _Preset(bits=12, target=152),
}
"""Blocks of 5.25 bits and 256 candidates, 7 bits and 1,024, 9.5 bits and 4,096. More candidates need fewer spare bits
for the same bias; drawing them takes longer, in proportion."""


class Relative(Codec):
    """A sample of Bern(theta_local), for about 1.6 (``fast``), 1.45 (``default``) or 1.27 (``small``) times the KL in
    bits.

    Parameters
    ----------
    keep
        Ignored, see above.
    preset
        One of `PRESETS`. Read by the encoder only: the payload says what the decoder needs.
    target_bpp
        Largest payload in bits a position, header included; 0 is no limit. Held whenever 36 bytes and one a segment fit
        in it; where they do not, they are what is sent.
    device
        Torch device on which the encoder weighs the candidates, for instance ``"cuda"``; None for compiled loops on the
        CPU. The bytes are the same.

    Raises
    ------
    ConfigError
        If there is no such preset, or target_bpp is negative or not finite.
    """

    name: ClassVar[str] = "relative"
    number: ClassVar[int] = 5
    counts: ClassVar[str] = "blocks"
    samples: ClassVar[bool] = True
    draws_alone: ClassVar[bool] = True
    growth: ClassVar[float] = 2.0
    gains: ClassVar[tuple[float, float, float]] = (2.0**1.5, 0.25, 64.0)
    sections: ClassVar[tuple[type[Section], ...]] = (RelativeSection,)

    @classmethod
    def from_config(cls, run: Sections, client: Client) -> Self:
        """With the client's own budget, if it has one; on its GPU, if it computes there."""
        keys = run[RelativeSection]
        device = client.device if client.device.startswith("cuda") else None
        return cls(preset=keys.relative_preset, target_bpp=client.target_bpp or 0.0, device=device, gain=client.gain)

    def __init__(
        self,
        keep: float = 1.0,
        preset: str = "default",
        target_bpp: float = 0.0,
        device: str | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__(keep, gain)
        if preset not in PRESETS:
            raise ConfigError(f"preset = {preset!r}: choose one of {', '.join(PRESETS)}")
        if not 0 <= target_bpp < math.inf:
            raise ConfigError(f"target-bpp = {target_bpp}: must be 0 (no limit) or above")
        self.preset = preset
        self.target_bpp = target_bpp
        self.device = device

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """The sum of KL(Bern(theta_local) || Bern(theta)): what a sample costs at least, on average."""
        parts = (slice(start, start + PART) for start in range(0, shared.d, PART))
        sums = (int(divergence(shared.theta[part], quantise(theta_local[part]), LOG2)[0]) for part in parts)
        return Bound("KL", sum(sums) / KL_ONE)

    def _change_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.int32]:
        """What the sample says beyond theta; nothing where a layer has not moved."""
        mask = self._decode_body(n, body, shared)
        change = mask.astype(np.int32) * ONE - shared.theta
        sizes = _segments(shared)
        ends = np.cumsum(sizes).tolist()
        for scale, size, end in zip(body[FRONT_BYTES : FRONT_BYTES + len(sizes)], sizes, ends, strict=True):
            if scale == 0:
                change[end - size : end] = 0
        return change

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body: bits of an index, target and scales. The number of layers follows from what is left."""
        bits, target = read_front(body)
        indices = -(-n * bits // 8)
        layers = len(body) - FRONT_BYTES - indices
        if layers < 0:
            raise TruncatedPayload(f"{len(body)} bytes of body; {n} indices alone have {indices}")
        still = body[FRONT_BYTES : FRONT_BYTES + layers].count(0)
        fields: dict[str, str | int] = {
            "index": f"{bits} bits: one of {1 << bits:,} candidates",
            "block": f"{target / 16:g} bits of KL, as predicted",
            "layers": f"{layers:,}, {still:,} of them without any change",
        }
        return Body(fields, {"bits and target": FRONT_BYTES, "scales": layers, "indices": indices})

    def _encode_body(self, theta_local: NDArray[np.float32], shared: SharedState) -> tuple[int, bytes]:
        bits, target = PRESETS[self.preset]
        local = np.empty(shared.d, dtype=np.uint16)
        for start in range(0, shared.d, PART):
            part = slice(start, start + PART)
            local[part] = quantise(theta_local[part])
        plan = _plan(local, shared, target)
        front = bytes((bits, target))
        if self.target_bpp:
            room = int(self.target_bpp * shared.d / 8) - HEADER_BYTES - len(front) - len(plan.scales)
            local, plan = _fit(local, plan, shared, target, most=max(8 * room, 0) // bits)
        indices = np.empty(plan.blocks, dtype=np.uint16)
        if plan.blocks:
            starts = _starts(plan.scales, shared, target, plan.blocks)
            indices = self._choose(local, shared, starts, bits)
        return plan.blocks, front + plan.scales + pack_indices(indices, bits)

    def _choose(
        self, local: NDArray[np.uint16], shared: SharedState, starts: NDArray[np.uint32], bits: int
    ) -> NDArray[np.uint16]:
        """Indices of the chosen candidates, uint16 ``(blocks,)``."""
        keys, blocks = _keys(shared), len(starts) - 1
        if self.device is not None:
            from common.codecs.relative_torch import choose_on  # only for those who ask for it

            return choose_on(self.device, int(keys[0]), int(keys[1]), shared.theta, local, starts, bits)
        indices = np.empty(blocks, dtype=np.uint16)
        # ranges of blocks with about equal numbers of positions: 64 at most, and none so short that starting a thread
        # takes longer
        wanted = np.linspace(0, shared.d, num=min(blocks, 64, 1 + shared.d // _SHORT) + 1)[1:-1]
        cuts = [0, *np.unique(np.searchsorted(starts[:-1], wanted)).tolist(), blocks]
        for_parts(
            lambda a, b: choose(*keys, shared.theta, local, starts, a, bits, LOG_ODDS, EXP2, indices[a:b]),
            [(a, b) for a, b in pairwise(cuts) if a < b],
        )
        return indices

    def _decode_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        bits, target = read_front(body)
        front = FRONT_BYTES + len(_segments(shared))
        size = front + -(-n * bits // 8)
        if len(body) != size:
            raise (TruncatedPayload if len(body) < size else OversizedPayload)(
                f"{len(body)} bytes of body; {n} blocks have {size}"
            )
        scales = body[FRONT_BYTES:front]
        starts = _starts(scales, shared, target, n)
        if n == 0:
            return shared.mask()
        indices = unpack_indices(body[front:], n, bits)
        mask = np.empty(shared.d, dtype=np.bool_)
        key, _ = _keys(shared)
        begins = np.arange(0, shared.d, PART)
        blocks = np.searchsorted(starts, begins, side="right") - 1
        for_parts(
            lambda block, begin: draw(
                key, shared.theta, starts, block, begin, indices, bits, mask[begin : begin + PART]
            ),
            zip(blocks.tolist(), begins.tolist(), strict=True),
        )
        return mask


def _segments(shared: SharedState) -> tuple[int, ...]:
    return shared.segments or ()  # the type allows None; a SharedState never has it


def _keys(shared: SharedState) -> tuple[np.uint64, np.uint64]:
    """Streams of the candidates and of the choice among them.

    The decoder needs only the first. The second is a stream like any other, so that equal input gives equal bytes.
    """
    names = ("relative/candidates", "relative/choice")
    candidates, choice = (np.uint64(stream_key(shared.seed, shared.round, shared.slot, name)) for name in names)
    return candidates, choice


def _plan(local: NDArray[np.uint16], shared: SharedState, target: int) -> _Plan:
    """Scales that predict each segment's KL in total, rounded to the nearest eighth of an octave."""
    segments = _segments(shared)
    ends = np.cumsum(segments, dtype=np.int64).tolist()
    parts = [
        (row, a, min(a + PART, end)) for row, end in enumerate(ends) for a in range(end - segments[row], end, PART)
    ]
    totals = [[0, 0] for _ in segments]
    sums: list[tuple[int, int, int]] = []  # in whichever order threads finish: sums of integers do not depend on it

    def add(row: int, start: int, stop: int) -> None:
        kl, spread = divergence(shared.theta[start:stop], local[start:stop], LOG2)
        sums.append((row, int(kl), int(spread)))

    for_parts(add, parts)
    for row, kl, spread in sums:
        totals[row][0] += kl
        totals[row][1] += spread
    codes = [round(8 * (math.log2(kl / spread) + _LOWEST_OCTAVE)) + 1 if kl else 0 for kl, spread in totals]
    scales = bytes(min(max(code, 0), 255) for code in codes)
    return _Plan(scales, _cut(scales, shared, target, np.empty(0, np.uint32)))


def _fit(
    local: NDArray[np.uint16], plan: _Plan, shared: SharedState, target: int, most: int
) -> tuple[NDArray[np.uint16], _Plan]:
    """Shrink the step until at most ``most`` blocks are left, and stop looking for a larger one within 2 % of it."""
    if plan.blocks <= most:
        return local, plan
    best = (shared.theta, _Plan(bytes(len(plan.scales)), 0))
    if most == 0:
        return best
    low, high, blocks, step = 0, 1 << 16, plan.blocks, 1 << 16
    for trial in range(_MAX_TRIALS):
        if high - low < 2 or (low and (trial > 8 or best[1].blocks >= 0.98 * most)):
            break
        # KL goes with the square of the step. The first trials use that to guess; later ones halve the interval, which
        # always ends.
        step = round(step * math.sqrt((most - 0.5) / blocks)) if blocks and trial < 5 else (low + high) // 2
        step = min(max(step, low + 1), high - 1)
        shrunk = np.empty_like(local)
        for_parts(
            lambda a, step=step, out=shrunk: shrink(
                shared.theta[a : a + PART], local[a : a + PART], step, LOG_ODDS, out[a : a + PART]
            ),
            [(a,) for a in range(0, shared.d, PART)],
        )
        trial_plan = _plan(shrunk, shared, target)
        blocks = trial_plan.blocks
        if blocks <= most:
            low, best = step, (shrunk, trial_plan)
        else:
            high = step
    return best


def _cut(scales: bytes, shared: SharedState, target: int, starts: NDArray[np.uint32]) -> int:
    """Count the blocks, and write as many of their starts as there is room for."""
    codes = np.frombuffer(scales, dtype=np.uint8).astype(np.int64) - 1
    octaves = (codes >> 3) - _LOWEST_OCTAVE
    factors = np.where(codes < 0, 0, np.array(_OCTAVE, dtype=np.int64)[codes & 7])
    ends = np.cumsum(_segments(shared), dtype=np.int64)
    return int(block_starts(shared.theta, ends, factors, 15 - octaves, np.int64(target * KL_ONE // 16), starts))


def _starts(scales: bytes, shared: SharedState, target: int, n: int) -> NDArray[np.uint32]:
    """Starts of the n blocks, and d at the end; raises BadGeometry if the scales do not give n blocks."""
    starts = np.empty(n + 1, dtype=np.uint32)
    blocks = _cut(scales, shared, target, starts[:n])
    if blocks != n:
        raise BadGeometry(f"the scales cut the positions into {blocks} blocks, the header says {n}")
    starts[n] = shared.d
    return starts
