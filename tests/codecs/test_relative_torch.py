"""The choice of ``relative`` in torch gives the bytes of the compiled one: on the CPU here, on a GPU where there is
one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codecs import SharedState, get_codec
from common.codecs.relative import PRESETS
from common.codecs.relative_torch import DEVICE_BYTES, choose_on
from common.theta import quantise
from tests.codecs.cases import any_case, realistic, seeds
from tests.codecs.test_golden import case

cases = st.one_of(
    st.tuples(st.integers(1, 5000), seeds, st.sampled_from(["same", "step"])),
    # nearly every position is a block of its own
    st.tuples(st.integers(1, 400), seeds, st.sampled_from(["ones", "zeros", "any"])),
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20)
@given(case=cases, target_bpp=st.sampled_from([0.0, 0.0, 0.05, 0.5]))
def test_same_bytes(preset: str, case: tuple[int, int, str], target_bpp: float) -> None:
    shared, local = any_case(*case)
    compiled, in_torch = (
        get_codec("relative", preset=preset, target_bpp=target_bpp, device=device).encode(local, shared)
        for device in (None, "cpu")
    )
    assert in_torch == compiled


def test_golden_payload() -> None:
    golden = Path(__file__).parents[1] / "golden" / "relative.payload"
    shared, local = case("relative")
    assert get_codec("relative", device="cpu").encode(local, shared) == golden.read_bytes()


@pytest.mark.parametrize("device_bytes", [0, 10_000, 1_000_000])
def test_the_choice_does_not_depend_on_how_the_work_is_cut(device_bytes: int) -> None:
    """Blocks across several parts, and several blocks in one."""
    rng = np.random.default_rng(4)
    theta, local = (rng.integers(1, 65536, 300).astype(np.uint16) for _ in range(2))
    starts = np.array([0, 1, 2, 150, 151, 300], np.uint32)
    args = (2**64 - 3, 2**63 + 5, theta, local, starts, 8)
    np.testing.assert_array_equal(choose_on("cpu", *args, device_bytes), choose_on("cpu", *args))


def test_extreme_probabilities() -> None:
    """The largest sums there are: theta and theta_local at opposite ends of the grid, in one block."""
    theta = np.where(np.arange(2000) % 2, 1, 65535).astype(np.uint16)
    shared = SharedState(theta, 1, 1, 0)
    local = (np.arange(2000) % 2).astype(np.float32)
    local[:1990] = (theta[:1990] / 65536).astype(np.float32)
    for preset in PRESETS:
        compiled = get_codec("relative", preset=preset).encode(local, shared)
        assert get_codec("relative", preset=preset, device="cpu").encode(local, shared) == compiled


@needs_gpu
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["first", "later"])
def test_same_bytes_and_bounded_memory_on_a_gpu(preset: str, kind: str) -> None:
    shared, local = realistic(kind, d=1_000_000)
    local[:300] = 0.02
    assert (quantise(local) != shared.theta).any()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    payload = get_codec("relative", preset=preset, device="cuda").encode(local, shared)
    assert torch.cuda.max_memory_allocated() - before < DEVICE_BYTES + (1 << 20)
    assert payload == get_codec("relative", preset=preset).encode(local, shared)
