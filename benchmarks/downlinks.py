"""Theta on its way back: bits a position of what the server publishes after each round, by uplink codec and form.

Ten clients, steps of random size instead of training, masks folded and published by the server's own code. What is
counted is the message to a client that holds the version before, and that client's theta is checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.aggregation.beta import empty_posterior, fold, mode
from common.codecs import Codec, SharedState, get_codec
from common.downlink import apply_chain
from common.theta import probabilities, quantise, theta_digest
from deltamask_server.downlink import Downlink

__all__ = ["FORMS", "downlink_figures"]

FORMS = ("quantised", "exact", "relay")
"""Forms measured side by side on the same rounds; `deltamask_server.downlink` has them all."""
_UPLINKS: dict[str, Codec] = {
    "fuse8": get_codec("fuse8"),
    "exact": get_codec("exact"),
    "relative": get_codec("relative", target_bpp=0.007),
}
"""`relative` with the budget that the accuracy experiment gives it (`benchmarks.experiments.codecs`)."""
_CLIENTS, _ROUNDS, _SEED = 10, 4, 5
_MOVED, _STEP = 0.2, 0.5
"""Share of the positions that move in a round, and by how much in log-odds (standard deviation)."""


def downlink_figures(d: int) -> dict[str, Any]:
    """Bits a position of each round's message, first round first: by uplink codec, then by form."""
    figures: dict[str, Any] = {}
    for uplink, codec in _UPLINKS.items():
        theta = np.full(d, quantise(0.95))
        servers = {form: Downlink(form, (d,), _SEED, theta) for form in FORMS}
        figures[uplink] = {form: [] for form in FORMS}
        for server_round in range(1, _ROUNDS + 1):
            start = empty_posterior(d)
            payloads, posterior = {}, start
            for slot in range(_CLIENTS):
                shared = SharedState(theta, _SEED, server_round, slot)
                payloads[slot] = codec.encode(_local_step(theta, seed=100 * server_round + slot), shared)
                posterior = fold(posterior, codec.decode(payloads[slot], shared))
            after = mode(posterior)
            for form, server in servers.items():
                server.publish(after, server_round, payloads, start)
                message = server.message(theta_digest(theta))
                if not np.array_equal(apply_chain(message, theta, d, _SEED, (d,)), after):
                    raise SystemExit(f"the {form} downlink lost something after {uplink} uplinks")
                figures[uplink][form].append(round(8 * len(message) / d, 4))
            theta = after
        print(f"  downlink after {uplink:9} {figures[uplink]}", flush=True)
    return figures


def _local_step(theta: NDArray[np.uint16], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    p = probabilities(theta).astype(np.float64)
    step = _STEP * rng.standard_normal(len(theta)) * (rng.random(len(theta)) < _MOVED)
    return (1 / (1 + np.exp(-np.log(p / (1 - p)) - step))).astype(np.float32)
