"""The interface of every codec: what a client learnt to bytes, and back to the mask that the server folds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.codecs.state import SharedState
from common.config.section import Section, Sections
from common.config.shared import RoundsSection
from common.errors import EncodeError
from common.gain import gain_code, gain_of, spread
from common.selection import cosine, largest_changes, select_top
from common.theta import ONE
from common.wire import Header, pack_payload, unpack_payload

__all__ = ["Body", "Bound", "Client", "Codec", "DeltaCodec", "DeltaSection", "delta_options", "entropy_bits"]


class Body(NamedTuple):
    """A codec's own bytes, explained."""

    fields: dict[str, str | int]
    """What stands in them, by name, for a person to read."""
    parts: dict[str, int]
    """Bytes of each part, in order; they add up to the body."""


class Bound(NamedTuple):
    """What theory says a codec needs."""

    name: str
    """Of what, in at most 14 characters."""
    bits: float
    """For all positions, header not included."""


class DeltaSection(Section):
    """Of codecs that send a delta."""

    title: ClassVar[str] = "Codecs `fuse8`, `fuse16`, `fuse32`, `exact`, `bloom`"
    under: ClassVar[str] = "codec"

    kappa: float = Field(
        1.0, gt=0, le=1, description="Share of the changed bits that is sent, in the first round; 0.8 is the paper's."
    )
    kappa_final: float = Field(1.0, gt=0, le=1, description="The same in the last round; a cosine lies between.")

    change_left_out: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="Under `flips`: share of the squared change of a client's probabilities that it does not send, "
        "that of the smallest changes: they have most of the flips, and little of what was learnt.",
    )

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.kappa_final > self.kappa:
            raise ValueError(
                f"kappa-final = {self.kappa_final} is above kappa = {self.kappa}; the share sent may only fall"
            )
        return self


class Client(NamedTuple):
    """What a client's codec depends on, beside the run config."""

    server_round: int
    target_bpp: float | None = None
    """The longest payload that the client's link allows, if it says so."""
    device: str = "cpu"
    """Where the client computes."""
    counts_changes: bool = True
    """Whether the aggregation rule folds `Codec.change`, or masks."""
    gain: float = 1.0
    """How much a change counts; 1 where masks are folded."""


def entropy_bits(ones: int, total: int) -> float:
    """``total * H(ones / total)``: bits for a list of that many ones among that many positions, 0 when there is nothing
    to tell.
    """
    zeros = total - ones
    if ones == 0 or zeros == 0:
        return 0.0
    return ones * math.log2(total / ones) + zeros * math.log2(total / zeros)


class Codec(ABC):
    """One way to send a local update.

    A codec is a value: it holds options only, so one object serves any number of clients and rounds. Equal input gives
    equal bytes, on any machine.

    Parameters
    ----------
    keep
        kappa of this call, in (0, 1]: the share of changed positions that a delta codec sends.
    gain
        How much a change counts, in [1/256, 64], rounded to an eighth of an octave (`common.gain`). Payloads with
        another one than 1 are for `change` alone.
    """

    name: ClassVar[str]
    number: ClassVar[int]
    """The codec's number in the header; never reused."""
    newest_version: ClassVar[int] = 1
    """The newest wire version of the codec's payloads; it reads the older ones too."""
    counts: ClassVar[str]
    """What the header's n counts."""
    draws_alone: ClassVar[bool] = False
    """Whether a mask is drawn by uniforms that the server's mask does not share: it then differs from that everywhere
    by chance, also where nothing has been learnt.
    """
    growth: ClassVar[float] = 1.0
    """Payloads of half the gain, or of twice the change, are about 2^growth times as long."""
    gains: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 1.0)
    """The gain of the first round for a budget of 0.01 bits; the least, which is also that without a budget; and the
    largest.
    """
    samples: ClassVar[bool] = False
    """Whether what arrives is a sample: no mask of the client's own, and so never wrong."""
    sections: ClassVar[tuple[type[Section], ...]] = ()
    """Sections of the run config that it reads."""

    def __init__(self, keep: float = 1.0, gain: float = 1.0) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be in (0, 1], got {keep}")
        self.keep = keep
        self._gain = gain_code(gain)

    @classmethod
    def from_config(cls, run: Sections, client: Client) -> Self:
        """The codec of one client in a round."""
        return cls(gain=client.gain)

    def encode(self, theta_local: NDArray[np.float32], shared: SharedState) -> bytes:
        """Encode local probabilities.

        Parameters
        ----------
        theta_local
            float32 ``(d,)`` in [0, 1].
        shared
            What both sides know.

        Returns
        -------
        The whole payload, header included.

        Raises
        ------
        EncodeError
            If theta_local has another shape than theta, or holds NaN.
        """
        if theta_local.shape != shared.theta.shape:
            raise EncodeError(f"theta_local has shape {theta_local.shape}, theta has {shared.theta.shape}")
        if np.isnan(theta_local).any():
            raise EncodeError(
                "theta_local holds NaN: local training diverged; lower score-step, or learning-rate where "
                "score-optimiser = 'adam'"
            )
        n, body = self._encode_body(spread(theta_local, shared.theta, self._gain), shared)
        return pack_payload(self._header(shared, n, self.version(n), self._gain), body)

    def decode(self, payload: bytes, shared: SharedState) -> NDArray[np.bool_]:
        """Decode a payload into m_k as the server sees it, bool ``(d,)``.

        Raises
        ------
        PayloadError
            Whatever is wrong with the payload, by a subclass of its own; nothing else.
        """
        found, body = unpack_payload(payload, self._header(shared, 0, self.newest_version))
        return self._decode_body(found.n, body, shared)

    def change(self, payload: bytes, shared: SharedState) -> NDArray[np.int32]:
        """Decode a payload into an estimate of theta_k - theta, int32 ``(d,)`` in 1/65536, whose mean over the shared
        uniforms is right: the gain times m_k - m_g here, since E[m_g] = theta is known.

        Raises
        ------
        PayloadError
            As `decode`.
        """
        found, body = unpack_payload(payload, self._header(shared, 0, self.newest_version), any_gain=True)
        change = self._change_body(found.n, body, shared)
        return change if found.gain == 0 else np.rint(change * gain_of(found.gain)).astype(np.int32)

    def describe(self, n: int, body: bytes) -> Body:
        """Explain a body without theta: what can be read of it, and nothing decoded.

        Parameters
        ----------
        n
            The header's n, any uint32: unlike a decoder's, it was compared with nothing.
        body
            Any bytes. What is allocated follows from their number, not from the numbers in them.

        Raises
        ------
        PayloadError
            If they are no body of this codec. Bytes that pass can still be refused by `decode`, which knows theta.
        """
        return Body({}, {"body": len(body)})

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """The limit that this codec is to be measured against, for this input and gain 1; None if it names none."""
        return None

    def version(self, n: int) -> int:
        """The wire version that `encode` writes when it carries ``n`` positions: the oldest one with these bytes, so
        that older receivers read what they can.
        """
        return 1

    def _header(self, shared: SharedState, n: int, version: int, gain: int = 0) -> Header:
        return Header(self.number, shared.round, shared.slot, shared.d, n, shared.digest, shared.method, version, gain)

    @abstractmethod
    def _encode_body(self, theta_local: NDArray[np.float32], shared: SharedState) -> tuple[int, bytes]:
        """Return n for the header and the codec's own bytes."""

    @abstractmethod
    def _decode_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        """Return the mask; raise PayloadError on anything odd."""

    def _change_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.int32]:
        """Return the change for a gain of 1; raise PayloadError on anything odd."""
        return (self._decode_body(n, body, shared).astype(np.int32) - shared.mask()) * ONE


class DeltaCodec(Codec):
    """A codec of the selected delta: the positions where m_k differs from m_g, the top ``keep`` of them by KL.

    Parameters
    ----------
    keep, gain
        Of every codec.
    left_out
        Share of the squared change that is not sent, `common.selection.largest_changes`.
    """

    counts: ClassVar[str] = "flips"
    gains: ClassVar[tuple[float, float, float]] = (2.0, 1.0, 64.0)
    sections: ClassVar[tuple[type[Section], ...]] = (DeltaSection,)

    @classmethod
    def from_config(cls, run: Sections, client: Client) -> Self:
        """With this round's kappa."""
        return cls(**delta_options(run, client))

    def __init__(self, keep: float = 1.0, gain: float = 1.0, left_out: float = 0.0) -> None:
        super().__init__(keep, gain)
        self.left_out = left_out

    def selected_delta(self, theta_local: NDArray[np.float32], shared: SharedState) -> NDArray[np.int64]:
        """Positions to send, int64, ascending."""
        changed = np.flatnonzero(shared.local_mask(theta_local) != shared.mask())
        return select_top(changed, theta_local, shared.theta, self.keep)

    def bound(self, theta_local: NDArray[np.float32], shared: SharedState) -> Bound | None:
        """The entropy of the flips, if nothing but their number is known."""
        return Bound("entropy", entropy_bits(len(self.selected_delta(theta_local, shared)), shared.d))

    def _encode_body(self, theta_local: NDArray[np.float32], shared: SharedState) -> tuple[int, bytes]:
        if self.left_out:
            theta_local = largest_changes(theta_local, shared.theta, self.left_out)
        positions = self.selected_delta(theta_local, shared)
        return len(positions), self.encode_positions(positions, shared)

    def _decode_body(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        return shared.mask() ^ self.decode_flips(n, body, shared)

    @abstractmethod
    def encode_positions(self, positions: NDArray[np.int64], shared: SharedState) -> bytes:
        """Encode ascending positions."""

    @abstractmethod
    def decode_flips(self, n: int, body: bytes, shared: SharedState) -> NDArray[np.bool_]:
        """Return the flips, bool ``(d,)``."""


def delta_options(run: Sections, client: Client) -> dict[str, float]:
    """What the run config says of delta codecs in a round. Where masks are counted, small changes count as well."""
    keys = run[DeltaSection]
    keep = cosine(keys.kappa, keys.kappa_final, client.server_round, run[RoundsSection].num_server_rounds)
    left_out = keys.change_left_out if client.counts_changes else 0.0
    return {"keep": keep, "gain": client.gain, "left_out": left_out}
