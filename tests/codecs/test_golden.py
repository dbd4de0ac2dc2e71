"""Payloads of an older release decode to the same masks for ever: another encoder output needs a new wire version."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from common.codecs import SharedState, available_codecs, codec_of, get_codec
from common.codecs.fuse import FuseCodec
from common.uniforms import uniforms
from common.wire import HEADER_BYTES

GOLDEN = Path(__file__).parents[1] / "golden"
MASKS = {
    "fuse8-all": 1107130192,
    "fuse16-all": 2411413576,
    "fuse8": 3480089354,
    "fuse16": 2411413576,
    "fuse32": 2411413576,
    "exact": 2411413576,
    "relative": 2579789709,
    "bitmap": 2411413576,
    "bloom": 1646315141,
}

SHARED = SharedState(np.full(4096, 60_000, np.uint16), seed=11, round=2, client=5, segments=(4000, 96))
LOCAL = (0.5 + uniforms(99, 4096) / 131072).astype(np.float32)


def test_every_codec_has_one() -> None:
    assert set(MASKS) == {path.stem for path in GOLDEN.glob("*.payload")}
    assert {name.removesuffix("-all") for name in MASKS} == set(available_codecs())


@pytest.mark.parametrize("name", MASKS)
def test_golden_payloads_decode_to_the_same_masks(name: str) -> None:
    payload = (GOLDEN / f"{name}.payload").read_bytes()
    assert zlib.crc32(codec_of(payload).decode(payload, SHARED).tobytes()) == MASKS[name]


@pytest.mark.parametrize("name", MASKS)
def test_what_is_encoded_today_is_the_same(name: str) -> None:
    golden = (GOLDEN / f"{name}.payload").read_bytes()
    options = {"candidates": False} if name.endswith("-all") else {}
    codec = get_codec(name.removesuffix("-all"), **options)
    payload = codec.encode(LOCAL, SHARED)
    if not isinstance(codec, FuseCodec):
        assert payload == golden
        return
    # zlib's compression may differ between its versions; the image's content may not.
    n = struct.unpack_from("<I", golden, 18)[0]
    then, now = (codec.read_filter(n, data[HEADER_BYTES:]) for data in (golden, payload))
    assert np.array_equal(then.fingerprints, now.fingerprints)
    assert (then.seed, then.segment_length, then.segment_count) == (now.seed, now.segment_length, now.segment_count)
