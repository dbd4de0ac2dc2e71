"""What the DeltaMask server and its clients must agree on: shared randomness, masks, codecs, posterior, wire format,
config.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
