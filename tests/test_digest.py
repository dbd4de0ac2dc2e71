from __future__ import annotations

import hashlib

import numpy as np
import pytest

from common.digest import array_digest, digest8, new_digest


def test_parts_count_as_if_they_were_one() -> None:
    expected = hashlib.blake2b(b"one two", digest_size=8).digest()
    assert digest8(b"one two") == digest8(b"one", memoryview(b" two"), b"") == expected
    state = new_digest()
    state.update(b"one ")
    state.update(b"two")
    assert state.digest() == expected
    assert len(digest8()) == 8


@pytest.mark.parametrize("dtype", ["<u2", "<f4", "u1"])
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5), ()])
def test_an_array_counts_as_its_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    expected = digest8(values.tobytes())
    assert array_digest(values, dtype) == expected
    assert array_digest(values.astype(np.dtype(dtype).newbyteorder(">")), dtype) == expected
    assert array_digest(np.repeat(values[..., None], 2, -1)[..., 0], dtype) == expected
