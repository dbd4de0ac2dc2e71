"""What a backbone wants to see."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import ModelError

__all__ = ["InputSpec"]


@dataclass(frozen=True)
class InputSpec:
    """Channels (1 or 3), side in pixels, mean and standard deviation of each channel (of values in [0, 1]), and how
    images of other sizes are resized: ``bicubic`` or ``bilinear``, always antialiased.

    Raises
    ------
    ModelError
        If the interpolation is another.
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ModelError(f"the backbone's images are resized by {self.interpolation!r}; bicubic and bilinear exist")

    @property
    def text(self) -> str:
        """What a digest covers. Until there was another interpolation, bicubic had no name: it still has none, so that
        digests in results of then can be compared.
        """
        known = f"InputSpec(channels={self.channels}, size={self.size}, mean={self.mean}, std={self.std}"
        return known + (")" if self.interpolation == "bicubic" else f", interpolation={self.interpolation!r})")
