"""Theta on its way to the clients: forms of one version of the global model, and chains of them.

==== =============  ===================================================================================================
no.  form           what
==== =============  ===================================================================================================
1    ``float32``    probabilities as float32, what most systems send: 32 bits a position
2    ``quantised``  the 16-bit grid values, entropy-coded by layer, for who holds nothing: theta is a mean of few masks,
                    so few values occur
3    ``exact``      lossless against the version before, for who holds that one
5    ``relay``      the round's accepted payloads, which every client folds itself from the version before: lossless,
                    and shortest after ``relative`` uplinks. Clients see each other's masks; opt-in
6    ``change``     lossless against the version before, where the rule is ``flips``: what the round has added
7    ``some``       the same for private runs, whose rounds move a shared subset of the positions and no other
==== =============  ===================================================================================================

``exact`` (our choice) rests on shared randomness: everybody can draw every client's mask m_g of the last round from
theta and the seeds. The new theta is the mean of masks m_k that differ from m_g in few places, so given the *number* of
ones among the m_g at a position, and how many of the clients' uniforms are near theta there, little is left to say.
After uplinks that do not use those uniforms (``relative``) this says nothing, and the old theta alone is the context:
the encoder tries both.

A message is a chain of such versions: a client that missed rounds gets the steps since, or the quantised theta if that
is shorter, and starts at the step whose base it holds. Whoever holds the newest version already, from an evaluation of
it, is sent its digest alone.
"""

from common.downlink.chain import MAX_STEPS, apply_chain, join_chain, max_chain_bytes
from common.downlink.change import pack_change
from common.downlink.exact import pack_exact
from common.downlink.relay import Relayed, pack_relay
from common.downlink.some import pack_some
from common.downlink.version import Step, pack_same, read_step
from common.downlink.whole import pack_float32, pack_quantised

__all__ = [
    "MAX_STEPS",
    "Relayed",
    "Step",
    "apply_chain",
    "join_chain",
    "max_chain_bytes",
    "pack_change",
    "pack_exact",
    "pack_float32",
    "pack_quantised",
    "pack_relay",
    "pack_same",
    "pack_some",
    "read_step",
]
