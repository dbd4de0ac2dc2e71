"""Shared fixtures: real data where it is present, and small realistic states."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from common.codecs import SharedState
from common.theta import probabilities

# The same examples on every machine, and no judgement on speed: machines are shared.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("repeatable")

DATA = Path(os.environ.get("DELTAMASK_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data and weights for measurements; tests that need it skip where it is absent."""
    if not (DATA / "MANIFEST.md").is_file():
        pytest.skip(f"no real data at {DATA}; set DELTAMASK_DATA to a folder with its files")
    return DATA


def local_step(theta: np.ndarray, seed: int, size: float = 0.5, moved: float = 0.2) -> np.ndarray:
    """Local probabilities as training leaves them: normal steps of the scores at a share of the positions."""
    rng = np.random.default_rng(seed)
    p = probabilities(theta).astype(np.float64)
    step = size * rng.standard_normal(len(theta)) * (rng.random(len(theta)) < moved)
    return (1 / (1 + np.exp(-(np.log(p / (1 - p)) + step)))).astype(np.float32)


def shared_state(d: int, seed: int = 1, round: int = 3, slot: int = 2) -> SharedState:
    """Theta as a mean of ten masks leaves it after a few rounds."""
    ones = np.random.default_rng(seed).binomial(10, 0.93, d)
    theta = (np.clip(ones / 10, 0.01, 0.99) * 65536).astype(np.uint16)
    return SharedState(theta, seed=seed, round=round, slot=slot)


def name_this_process() -> None:
    """Messages can be made only within a run: say that this process is one."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


@pytest.fixture(autouse=True, scope="session")
def _flower_identity() -> None:
    name_this_process()
