"""What one codec does with one update: bytes against what theory says it needs, mistakes, speed.

>>> from common.codecs import get_codec
>>> from deltamask_server.tools.codec_comparison.compare import compare
>>> from deltamask_server.tools.codec_comparison.synthetic import round_of_density
>>> shared, theta_local = round_of_density(20_000, 0.01)
>>> figures = compare(get_codec("fuse32"), theta_local, shared, repeats=1)
>>> figures.flips, figures.wrong, figures.bound_name
(200, 0, '32 bits a flip')
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.codecs import available_codecs, get_codec
from common.codecs.base import Codec, DeltaCodec, entropy_bits
from common.codecs.state import SharedState
from common.selection import select_top
from common.wire import read_header

__all__ = ["Comparison", "compare", "variants"]

_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "fuse8": {"fuse8-all": {"candidates": False}},
    "relative": {"relative-fast": {"preset": "fast"}, "relative-small": {"preset": "small"}},
}
"""Codecs worth comparing with other options: label and options, by name."""


def variants() -> dict[str, Codec]:
    """Every codec by its name, and after it the variants that are worth comparing with it, by a label each."""
    found: dict[str, Codec] = {}
    for name in available_codecs():
        found[name] = get_codec(name)
        found |= {label: get_codec(name, **options) for label, options in _VARIANTS.get(name, {}).items()}
    return found


@dataclass(frozen=True)
class Comparison:
    """Figures of one codec on one update."""

    codec: str
    """Its label."""
    d: int
    """Masked weights."""
    n: int
    """The header's: flips, blocks or ones."""
    payload_bytes: int
    """Header included."""
    flips: int | None
    """Positions of the selected delta; None for a codec that sends no delta."""
    wrong: int | None
    """Positions where the decoded mask is not what was to be sent: m_g with the selected delta flipped, or the local
    mask. Flips that a filter leaves out to save mistakes count too. None for a sample, which cannot be wrong.
    """
    entropy_bits: float | None
    """``d * H(flips / d)``: the flips listed without a mistake, with nothing known but their number; None without a
    delta. A filter may go below it, by its mistakes; `exact` does, since it knows theta and u.
    """
    bound_bits: float | None
    """The codec's own limit, `Codec.bound`; None if it names none."""
    bound_name: str
    """Of what the limit is; empty if there is none."""
    encode_rate: float
    """Positions a second, the best of several times, shared uniforms drawn before."""
    decode_rate: float
    """The same for decoding."""

    @property
    def bpp(self) -> float:
        """Bits per parameter, header included."""
        return 8 * self.payload_bytes / self.d

    @property
    def entropy_ratio(self) -> float | None:
        """Bits against the entropy of the flips; None where that is zero or there is none."""
        return 8 * self.payload_bytes / self.entropy_bits if self.entropy_bits else None

    @property
    def bound_ratio(self) -> float | None:
        """Bits against the codec's own limit; None where that is zero or there is none."""
        return 8 * self.payload_bytes / self.bound_bits if self.bound_bits else None

    def as_dict(self) -> dict[str, Any]:
        """Every figure by its name, for JSON."""
        ratios = {name: getattr(self, name) for name in ("bpp", "entropy_ratio", "bound_ratio")}
        return {**asdict(self), **ratios}


def compare(
    codec: Codec, theta_local: NDArray[np.float32], shared: SharedState, repeats: int = 3, label: str = ""
) -> Comparison:
    """Encode and decode an update, and measure.

    Parameters
    ----------
    codec
        With its options.
    theta_local
        float32 ``(d,)`` in [0, 1], d at least 1.
    shared
        What both sides know.
    repeats
        Times that encoding and decoding are timed, at least 1; the best counts. Once before, they are not timed.
    label
        What to call the codec; default: its name.

    Raises
    ------
    EncodeError
        If theta_local has another shape than theta, or holds NaN.
    """
    payload = codec.encode(theta_local, shared)
    decoded = codec.decode(payload, shared)
    flips, wanted = _wanted(codec, theta_local, shared)
    bound = codec.bound(theta_local, shared)
    return Comparison(
        codec=label or codec.name,
        d=shared.d,
        n=read_header(payload)[0].n,
        payload_bytes=len(payload),
        flips=flips,
        wrong=None if wanted is None else int(np.count_nonzero(decoded != wanted)),
        entropy_bits=None if flips is None else entropy_bits(flips, shared.d),
        bound_bits=bound.bits if bound else None,
        bound_name=bound.name if bound else "",
        encode_rate=shared.d / _best_of(repeats, lambda: codec.encode(theta_local, shared)),
        decode_rate=shared.d / _best_of(repeats, lambda: codec.decode(payload, shared)),
    )


def _wanted(
    codec: Codec, theta_local: NDArray[np.float32], shared: SharedState
) -> tuple[int | None, NDArray[np.bool_] | None]:
    """How many flips a codec is to send, and the mask that is then to arrive; None for what it does not have."""
    if codec.samples:
        return None, None
    local = shared.local_mask(theta_local)
    if not isinstance(codec, DeltaCodec):
        return None, local
    mask = shared.mask()
    # Not codec.selected_delta: what a filter leaves out of its own accord is its mistake.
    selected = select_top(np.flatnonzero(local != mask), theta_local, shared.theta, codec.keep)
    mask[selected] ^= True
    return len(selected), mask


def _best_of(times: int, run: Callable[[], Any]) -> float:
    """Shortest wall time of several runs, in seconds."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return max(min(seconds), 1e-9)  # a clock may not tell two calls apart
