"""What the DeltaMask server and its clients must agree on: shared randomness, masks, codecs, posterior, wire format,
config.
"""

__version__ = "0.1.0"
