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
    "bits": 2411413576,
    "bloom": 1646315141,
    "fuse8-large": 3411639539,
}
"""``-large`` has enough keys for version 2: one width stands for all, whose fingerprints have other known answers."""


def case(name: str) -> tuple[SharedState, np.ndarray]:
    d = 557_056 if name.endswith("-large") else 4096
    shared = SharedState(np.full(d, 60_000, np.uint16), seed=11, round=2, slot=5, segments=(d - 96, 96))
    return shared, (0.5 + uniforms(99, d) / 131072).astype(np.float32)


def codec_name(name: str) -> str:
    return name.removesuffix("-all").removesuffix("-large")


def test_every_codec_has_one() -> None:
    assert set(MASKS) == {path.stem for path in GOLDEN.glob("*.payload")}
    assert {codec_name(name) for name in MASKS} == set(available_codecs())
    versions = {name: (GOLDEN / f"{name}.payload").read_bytes()[2] for name in MASKS}
    assert versions == {name: 2 if name == "fuse8-large" else 1 for name in MASKS}


@pytest.mark.parametrize("name", MASKS)
def test_golden_payloads_decode_to_the_same_masks(name: str) -> None:
    payload = (GOLDEN / f"{name}.payload").read_bytes()
    assert zlib.crc32(codec_of(payload).decode(payload, case(name)[0]).tobytes()) == MASKS[name]


@pytest.mark.parametrize("name", MASKS)
def test_what_is_encoded_today_is_the_same(name: str) -> None:
    golden = (GOLDEN / f"{name}.payload").read_bytes()
    options = {"candidates": False} if name.endswith("-all") else {}
    codec = get_codec(codec_name(name), **options)
    payload = codec.encode(*case(name)[::-1])
    if not isinstance(codec, FuseCodec):
        assert payload == golden
        return
    assert payload[:30] == golden[:30]
    # zlib's compression may differ between its versions; the image's content may not.
    n = struct.unpack_from("<I", golden, 18)[0]
    then, now = (codec.read_filter(n, data[HEADER_BYTES:]) for data in (golden, payload))
    assert np.array_equal(then.fingerprints, now.fingerprints)
    assert (then.seed, then.segment_length, then.segment_count) == (now.seed, now.segment_length, now.segment_count)
