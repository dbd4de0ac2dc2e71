"""State as a value: what a run needs to go on, as arrays and JSON, whoever writes it where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

__all__ = ["Saved"]


@dataclass(frozen=True, eq=False)
class Saved:
    """Arrays by name, and values that JSON knows."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def under(self, name: str) -> Saved:
        """The same with ``name/`` before the names of arrays and values, to stand beside others."""
        return Saved(
            {f"{name}/{key}": array for key, array in self.arrays.items()},
            {f"{name}/{key}": value for key, value in self.values.items()},
        )

    def part(self, name: str) -> Saved:
        """The inverse of `under`: what stands there under ``name/``."""
        front = f"{name}/"
        return Saved(
            {key.removeprefix(front): array for key, array in self.arrays.items() if key.startswith(front)},
            {key.removeprefix(front): value for key, value in self.values.items() if key.startswith(front)},
        )

    def __or__(self, other: Saved) -> Saved:
        """Both together; names must differ."""
        return Saved(self.arrays | other.arrays, self.values | other.values)
