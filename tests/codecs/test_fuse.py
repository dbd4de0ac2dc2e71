from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.codecs import SharedState, available_codecs, get_codec
from common.errors import ConfigError, EncodeError
from common.selection import select_top
from common.theta import probabilities, quantise
from common.wire import HEADER_BYTES
from tests.conftest import local_step, shared_state

FUSE = ("fuse8", "fuse16")


def expected_delta(theta_local: np.ndarray, shared: SharedState, keep: float) -> np.ndarray:
    changed = np.flatnonzero(shared.local_mask(theta_local) != shared.mask())
    return select_top(changed, theta_local, shared.theta, keep)


@pytest.mark.parametrize("name", FUSE)
@pytest.mark.parametrize("keep", [1.0, 0.6, 0.01])
def test_decoding_gives_a_superset_of_the_selected_delta(name: str, keep: float) -> None:
    shared = shared_state(200_000)
    local = local_step(shared.theta, seed=4)
    codec = get_codec(name, keep=keep, candidates=False)
    payload = codec.encode(local, shared)
    flips = codec.decode(payload, shared) != shared.mask()
    sent = expected_delta(local, shared, keep)
    assert len(sent) > 10
    assert flips[sent].all(), "a flip was lost"
    mean = (shared.d - len(sent)) / 2 ** (8 if name == "fuse8" else 16)
    assert flips.sum() - len(sent) <= mean + 6 * np.sqrt(mean) + 1


@given(
    st.sampled_from(FUSE),
    st.integers(1, 3000),
    st.integers(0, 2**32),
    st.sampled_from(["same", "ones", "zeros", "any"]),
)
def test_any_size_and_any_theta(name: str, d: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    theta = rng.integers(1, 65536, d, dtype=np.uint16)
    shared = SharedState(theta, seed=seed, round=1, slot=0)
    local = {
        "same": probabilities(theta),
        "ones": np.ones(d, np.float32),
        "zeros": np.zeros(d, np.float32),
        "any": rng.random(d, dtype=np.float32),
    }[kind]
    codec = get_codec(name, candidates=False)
    payload = codec.encode(local, shared)
    assert payload == get_codec(name, candidates=False).encode(
        local.copy(), SharedState(theta.copy(), seed=seed, round=1, slot=0)
    )
    flips = codec.decode(payload, shared) != shared.mask()
    assert flips[expected_delta(local, shared, 1.0)].all()
    if kind == "same":
        assert not flips.any()
        assert len(payload) == HEADER_BYTES


def test_common_random_numbers_flip_with_the_size_of_the_step() -> None:
    # P(flip) = |theta_local - theta|; with independent draws it would be about 2 theta (1 - theta) = 0.095 here.
    theta = np.full(400_000, quantise(0.95))
    shared = SharedState(theta, seed=1, round=1, slot=1)
    flips = shared.local_mask(np.full(400_000, 0.94, np.float32)) != shared.mask()
    assert flips.mean() == pytest.approx(0.01, abs=5 * np.sqrt(0.01 / 400_000))


def test_bits_a_key_are_near_the_filter_s_own() -> None:
    shared = shared_state(2_000_000)
    local = local_step(shared.theta, seed=1)
    payload = get_codec("fuse8").encode(local, shared)
    flips = len(expected_delta(local, shared, 1.0))
    assert flips > 10_000
    assert 8 * len(payload) / flips < 9.3


def test_encode_refuses_nan_and_wrong_shapes() -> None:
    shared = shared_state(100)
    with pytest.raises(EncodeError, match="NaN"):
        get_codec("fuse8").encode(np.full(100, np.nan, np.float32), shared)
    with pytest.raises(EncodeError, match="shape"):
        get_codec("fuse8").encode(np.ones(99, np.float32), shared)


def test_get_codec_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="fuse8"):
        get_codec("zip")
    with pytest.raises(ValueError, match="keep"):
        get_codec("fuse8", keep=0.0)
    assert {"fuse8", "fuse16"} <= set(available_codecs())


def test_shared_state_checks_its_parts() -> None:
    theta = np.ones(4, np.uint16)
    assert SharedState(theta, 1, 1, 1).segments == (4,)
    for wrong in (theta.astype(np.int64), theta.reshape(2, 2), np.zeros(4, np.uint16)):
        with pytest.raises(ValueError, match="theta"):
            SharedState(wrong, 1, 1, 1)
    with pytest.raises(ValueError, match="segments"):
        SharedState(theta, 1, 1, 1, segments=(3,))
