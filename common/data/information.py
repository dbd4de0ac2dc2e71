"""Images from which nothing can be learnt: blank frames, and values that were scaled to nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_RANGE", "LEAST_STD", "shows_little"]

LEAST_STD = 2.0
"""Of 255: a blank frame with a sensor's noise is below, one line of writing on a page above."""
LEAST_RANGE = 20
"""Of 255: 8, 10 and 12-bit values in a 16-bit file that is scaled over its full range take 1, 4 and 16. Our choice, as
is `LEAST_STD`.
"""


def shows_little(pixels: NDArray[np.uint8]) -> bool:
    """Whether an image, uint8 ``(height, width)`` or ``(height, width, 3)``, is the same nearly everywhere: in each
    channel its values deviate by less than `LEAST_STD`, or lie within less than `LEAST_RANGE`.
    """
    # Every second pixel tells as much, and a site may have ten thousand images.
    step = 2 if min(pixels.shape[:2]) >= 64 else 1
    values = pixels[::step, ::step].reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1)
    if int((values.max(axis=0) - values.min(axis=0)).max()) < LEAST_RANGE:
        return True
    return bool(values.std(axis=0, dtype=np.float32).max() < LEAST_STD)
