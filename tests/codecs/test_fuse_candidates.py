from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import SharedState, get_codec
from common.codecs.distance import distances
from common.codecs.fuse import FuseCodec
from common.wire import HEADER_BYTES
from tests.codecs.cases import any_case, delta, kinds, realistic, seeds, sent, sizes

FUSE = ("fuse8", "fuse16", "fuse32")


def fuse(name: str, keep: float = 1.0, candidates: bool = True) -> FuseCodec:
    codec = get_codec(name, keep, candidates=candidates)
    assert isinstance(codec, FuseCodec)
    return codec


@settings(max_examples=60)
@given(st.sampled_from(FUSE), sizes, seeds, kinds, st.sampled_from([1.0, 0.5]))
def test_what_is_sent_arrives(name: str, d: int, seed: int, kind: str, keep: float) -> None:
    shared, local = any_case(d, seed, kind)
    codec = fuse(name, keep)
    payload = codec.encode(local, shared)
    assert payload == fuse(name, keep).encode(local.copy(), SharedState(shared.theta.copy(), seed, 1, 0))
    flips = get_codec(name).decode(payload, shared) != shared.mask()
    positions, everything = codec.selected_delta(local, shared), delta(local, shared, keep)
    assert flips[positions].all(), "a flip was lost"
    assert sent(payload) == len(positions)
    assert np.isin(positions, everything).all()
    assert len(everything) - len(positions) <= len(everything) // 100
    if kind == "same":
        assert len(payload) == HEADER_BYTES


@settings(max_examples=20)
@given(sizes, seeds, kinds)
def test_the_payload_says_which_positions_to_test(d: int, seed: int, kind: str) -> None:
    shared, local = any_case(d, seed, kind)
    for candidates in (False, True):
        payload = fuse("fuse8", candidates=candidates).encode(local, shared)
        decoded = [fuse("fuse8", candidates=reader).decode(payload, shared) for reader in (False, True)]
        assert np.array_equal(*decoded)


@pytest.mark.parametrize("name", ["fuse8", "fuse16"])
@pytest.mark.parametrize("kind", ["first", "later"])
def test_candidates_make_far_fewer_mistakes_for_two_bytes(name: str, kind: str) -> None:
    shared, local = realistic(kind, 1_000_000)
    truth = shared.local_mask(local)
    wrong, size = {}, {}
    for candidates in (False, True):
        codec = fuse(name, candidates=candidates)
        payload = codec.encode(local, shared)
        wrong[candidates] = int((codec.decode(payload, shared) != truth).sum())
        size[candidates] = len(payload)
    assert wrong[True] < 0.5 * wrong[False] + 1
    assert size[True] <= size[False] + 2


def test_no_position_beyond_the_threshold_is_flipped() -> None:
    shared, local = realistic("later")
    codec = fuse("fuse8")
    positions = codec.selected_delta(local, shared)
    flips = codec.decode(codec.encode(local, shared), shared) != shared.mask()
    far = distances(shared.uniforms, shared.theta)
    assert far[flips].max() == far[positions].max()


def test_leaving_out_the_furthest_flips_lowers_the_mistakes() -> None:
    shared, local = realistic("later", 1_000_000)
    dropped = len(delta(local, shared)) - len(fuse("fuse8").selected_delta(local, shared))
    assert dropped > 0
    far = distances(shared.uniforms, shared.theta)
    candidates = [
        (far <= far[positions].max()).sum()
        for positions in (delta(local, shared), fuse("fuse8").selected_delta(local, shared))
    ]
    assert (candidates[0] - candidates[1]) / 256 > dropped
    # With 32 bits there is no mistake to save.
    assert len(fuse("fuse32").selected_delta(local, shared)) == len(delta(local, shared))
