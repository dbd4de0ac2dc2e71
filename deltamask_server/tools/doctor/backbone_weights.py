"""Check of the embedded backbone, which lies in the environment and not in the package."""

from __future__ import annotations

import functools

from common.errors import ModelError, brief
from deltamask_server.tools.doctor.finding import Finding, failed, ok
from deltamask_server.tools.doctor.machine import REINSTALL

__all__ = ["check_weights", "embedded_digest"]


@functools.cache  # the network is built for it, which takes a second
def embedded_digest() -> str:
    """Digest of the embedded weights, as a run compares it.

    Raises
    ------
    ModelError
        If they are missing or damaged.
    """
    from common.models.backbone import load_backbone

    return load_backbone("letters-vit", "default", 0, 5).digest.hex()


def check_weights() -> Finding:
    """They are found and load."""
    try:
        return ok("weights", f"embedded weights found, digest {embedded_digest()}")
    except ModelError as error:
        return failed("weights", str(error), REINSTALL)
    except Exception as error:  # of a library that check_libraries names
        return failed("weights", f"cannot be loaded: {brief(error)}", REINSTALL)
