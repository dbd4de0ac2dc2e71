"""Names of classes that every machine of a run can be told of."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from common.errors import DataError, brief

__all__ = ["LONGEST_NAME", "MOST_CLASSES", "check_names"]

MOST_CLASSES, LONGEST_NAME = 100_000, 1_000
"""Of a class list that travels (`common.messages.unpack_classes`); a name's length is in characters."""

_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, of bytes that are no UTF-8 (Python has them as lone surrogates), and of
characters that end a line.
"""


def check_names(names: Sequence[str], source: str) -> None:
    """Refuse class names that cannot travel, before a run has cost anything.

    Parameters
    ----------
    names
        Of the classes.
    source
        Where they are from, for the error.

    Raises
    ------
    DataError
        If a name is not text, too long or only blanks, or there are too many.
    """
    if len(names) > MOST_CLASSES:
        raise DataError(f"dataset: {source} has {len(names):,} class folders; at most {MOST_CLASSES:,} are possible")
    for name in names:
        kinds = {unicodedata.category(character) for character in name}
        if "Cs" in kinds:
            raise DataError(
                f"dataset: the folder '{brief(name)}' in {source} has a name that is not UTF-8, so it cannot be sent; "
                "rename it (all of them: convmv -f latin1 -t utf8 -r --notest FOLDER)"
            )
        if not kinds.isdisjoint(_NO_TEXT) or not name.strip():
            raise DataError(
                f"dataset: the folder '{brief(name)}' in {source} has control characters or nothing but blanks as its "
                "name; rename it"
            )
        if len(name) > LONGEST_NAME:
            raise DataError(
                f"dataset: the class '{brief(name)}' in {source} has a name that is too long; at most {LONGEST_NAME:,} "
                "characters are possible"
            )
