"""Theta on its way back: bits a position of what the server publishes after each round, by uplink codec and form.

Ten clients, steps of random size instead of training, masks folded and published by the server's own code. What is
counted is the message to a client that holds the version before, and that client's theta is checked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.aggregation import fold_payload
from common.aggregation.beta import BetaRule
from common.codecs import Codec, SharedState, get_codec
from common.downlink import Relayed, apply_chain, pack_exact, pack_relay
from common.theta import Version, probabilities, quantise
from deltamask_server.downlink import Downlink

__all__ = ["FORMS", "downlink_figures"]

FORMS = ("quantised", "exact", "relay")
"""Forms measured side by side on the same rounds; `common.downlink` has them all."""
_UPLINKS: dict[str, Codec] = {
    "fuse8": get_codec("fuse8"),
    "exact": get_codec("exact"),
    "relative": get_codec("relative", target_bpp=0.007),
}
"""`relative` with the budget that the accuracy experiment gives it (`benchmarks.experiments.codecs`)."""
_CLIENTS, _ROUNDS, _SEED, _RULE = 10, 4, 5, BetaRule()
_MOVED, _STEP = 0.2, 0.5
"""Share of the positions that move in a round, and by how much in log-odds (standard deviation)."""


def downlink_figures(d: int) -> dict[str, Any]:
    """Bits a position of each round's message, first round first: by uplink codec, then by form."""
    figures: dict[str, Any] = {}
    for uplink, codec in _UPLINKS.items():
        before = Version(np.full(d, quantise(0.95)))
        servers = {form: Downlink((d,), before) for form in FORMS}
        figures[uplink] = {form: [] for form in FORMS}
        for server_round in range(1, _ROUNDS + 1):
            start = state = _RULE.start(before.theta, None, server_round)
            relayed = {}
            for slot in range(_CLIENTS):
                shared = SharedState.of(before, _SEED, server_round, slot)
                payload = codec.encode(_local_step(before.theta, seed=100 * server_round + slot), shared)
                relayed[slot] = Relayed(payload, examples=1)
                state = fold_payload(_RULE, state, payload, shared)
            after, first = Version(_RULE.finish(state)[0]), _RULE.pack_start(start, before.theta)
            steps = {
                "exact": pack_exact(after, before, _SEED, server_round, list(relayed)),
                "relay": pack_relay(after, before, _RULE, first, server_round, relayed),
            }
            for form, server in servers.items():
                server.publish(after, partial(_known, steps[form]) if form in steps else None)
                message = server.message(before.digest)
                if apply_chain(message, before, d, _SEED, (d,)).digest != after.digest:
                    raise SystemExit(f"the {form} downlink lost something after {uplink} uplinks")
                figures[uplink][form].append(round(8 * len(message) / d, 4))
            before = after
        print(f"  downlink after {uplink:9} {figures[uplink]}", flush=True)
    return figures


def _known(step: bytes | None, after: Version, before: Version) -> bytes | None:
    """A step that is encoded already, as `Downlink.publish` asks for one."""
    return step


def _local_step(theta: NDArray[np.uint16], seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    p = probabilities(theta).astype(np.float64)
    step = _STEP * rng.standard_normal(len(theta)) * (rng.random(len(theta)) < _MOVED)
    return (1 / (1 + np.exp(-np.log(p / (1 - p)) - step))).astype(np.float32)
