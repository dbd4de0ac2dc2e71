from __future__ import annotations

import numpy as np
import pytest
import torch

from common.uniforms import stream_key, stream_seed, uniforms, uniforms_torch

MASK = (1 << 64) - 1


def scalar_uniform(key: int, position: int) -> int:
    """SplitMix64 in counter mode, written out in Python integers."""
    z = (key + (position // 4 + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    z ^= z >> 31
    return (z >> (16 * (position % 4))) & 0xFFFF


def test_golden_vectors() -> None:
    # Changing these breaks every deployed client: it needs a new version of the wire format.
    assert stream_key(1, 2, 3) == GOLDEN_KEY
    assert uniforms(GOLDEN_KEY, 8).tolist() == GOLDEN_UNIFORMS


GOLDEN_KEY = 3458388490234543853
GOLDEN_UNIFORMS = [63350, 16940, 34966, 16434, 38291, 23763, 33541, 37633]


@pytest.mark.parametrize("key", [0, 1, 2**63, MASK, stream_key(5, 6, 7)])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1001])
def test_numpy_and_torch_equal_the_scalar_definition(key: int, count: int) -> None:
    expected = [scalar_uniform(key, position) for position in range(count)]
    drawn = uniforms(key, count)
    assert drawn.dtype == np.uint16
    assert drawn.tolist() == expected
    assert uniforms_torch(key, count).tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_draws_the_same_bits() -> None:
    key = stream_key(1, 1, 1)
    assert uniforms_torch(key, 100_003, "cuda").cpu().tolist() == uniforms(key, 100_003).tolist()


def test_streams_differ_by_each_part_of_their_key() -> None:
    keys = {stream_key(*parts) for parts in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 23, 3), (12, 3, 3)]}
    keys.add(stream_key(1, 2, 3, "other"))
    assert len(keys) == 7
    assert 0 <= stream_seed(1, 2, 3, "train") < 2**63


def test_uniforms_are_uniform_and_uncorrelated_between_clients() -> None:
    n = 200_000
    a, b = (uniforms(stream_key(1, 1, client), n).astype(np.float64) / 65536 for client in (0, 1))
    assert abs(a.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    counts = np.bincount((a * 256).astype(int), minlength=256)
    assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 255 + 6 * np.sqrt(2 * 255)
