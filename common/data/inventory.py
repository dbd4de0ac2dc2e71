"""What became of each file of a folder of images: used, or passed over for a reason. Nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data.duplicates import Duplicates, find_duplicates
from common.data.signatures import NO_IMAGE
from common.data.tree import HIDDEN, REASONS, SYSTEM
from common.errors import brief

__all__ = ["COUNTED", "NO_CLASS", "OTHER_SPLIT", "PASSED_OVER", "Inventory"]

NO_CLASS, OTHER_SPLIT = "in no class folder", "of another split"
PASSED_OVER = (*REASONS, NO_CLASS, OTHER_SPLIT)
COUNTED = ("used", "from deeper folders", "used twice", "used in two classes", *PASSED_OVER)
"""What the server is told of a site's files, as numbers."""
_EXPECTED = (HIDDEN, SYSTEM, NO_IMAGE, OTHER_SPLIT)
"""Reasons that nobody need be warned of."""


@dataclass(frozen=True, eq=False)
class Inventory:
    """Of one split in one folder."""

    root: Path
    used: tuple[str, ...]
    """Paths below the root of the images, which may still turn out to be broken."""
    labels: tuple[int, ...]
    """Class of each."""
    passed_over: Mapping[str, int]
    """Files by reason, one of `PASSED_OVER`."""
    examples: Mapping[str, str]
    """One path below the root for each reason."""
    deeper: int
    """Images that lie in folders below those of their classes."""
    deeper_folders: tuple[str, ...]
    """These folders, sorted."""
    merged: tuple[tuple[str, ...], ...]
    """Folders that are one class, since their names differ in Unicode's form alone."""
    empty: tuple[str, ...]
    """Folders without any image, which are no classes."""

    def duplicates(self) -> Duplicates:
        """Images with the same content; looks into those of equal size, and so takes longer than the rest."""
        return find_duplicates(self.root, self.used, self.labels)

    def counts(self, duplicates: Duplicates) -> dict[str, int]:
        """By names of `COUNTED`, without those that are 0."""
        found = {
            "used": len(self.used),
            "from deeper folders": self.deeper,
            "used twice": duplicates.copies,
            "used in two classes": duplicates.across,
            **self.passed_over,
        }
        return {name: found[name] for name in COUNTED if found.get(name)}

    def suspicious(self, duplicates: Duplicates) -> bool:
        """Whether there is something that its owner may not have meant."""
        return bool(
            duplicates.copies
            or self.deeper
            or self.merged
            or self.empty
            or any(reason not in _EXPECTED for reason in self.passed_over)
        )

    def passed_over_text(self) -> str:
        """Each reason with its number and an example; ``nothing`` where all files are used."""
        parts = [
            f"{count:,} {reason} ({brief(self.examples[reason])})"
            for reason, count in sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
        ]
        return ", ".join(parts) or "nothing"

    def text(self, duplicates: Duplicates) -> str:
        """All of it in one line; what is said of paths stays at the site."""
        parts = [f"{len(self.used):,} images used", f"passed over: {self.passed_over_text()}"]
        if self.deeper:
            shown = brief(self.deeper_folders[0])
            parts.append(f"{self.deeper:,} of those used lie in {len(self.deeper_folders):,} deeper folders ({shown})")
        if duplicates.copies:
            first, second = map(brief, duplicates.example)
            across = f", {duplicates.across:,} of them in another class" if duplicates.across else ""
            parts.append(f"{duplicates.copies:,} are copies of another one{across} ({first} and {second})")
        parts += [
            f"{len(names)} folders are one class, {brief(repr(names[0]))}: their names differ in Unicode's form alone"
            for names in self.merged
        ]
        if self.empty:
            parts.append(f"no image in {brief(', '.join(self.empty))}: no class")
        return "; ".join(parts)
