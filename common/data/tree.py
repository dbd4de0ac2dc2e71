"""Every file below a folder, each once, and why it is passed over before anybody looks into it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from common.data.signatures import HEAD_BYTES, UNREAD, unread_kind
from common.errors import DataError

__all__ = ["REASONS", "Entry", "Tree", "walk", "why_unread"]

HIDDEN, SYSTEM, UNREADABLE = "hidden", "in a system folder", "may not be read"
DANGLING, LOOP, TWICE, SPECIAL = "link to nothing", "link in a circle", "folder there twice", "no regular file"
REASONS = (HIDDEN, SYSTEM, UNREADABLE, DANGLING, LOOP, TWICE, SPECIAL, *UNREAD)
"""Why a file may be passed over, wherever it lies."""

_SYSTEM_NAMES = {
    *("lost+found", "found.000", "system volume information", "recycler", "recycled", "recycle.bin", "trash"),
    *("__macosx", "__pycache__", "#recycle", "#snapshot", "network trash folder", "temporary items", "cvs"),
    *("thumbs", "thumbnails", "thumbnail", "_thumbs", "_thumbnails"),
}
_COPIES = {"thumb", "_thumb", "preview", "previews", "_previews"}
"""Small copies, where such a folder lies within a class; a class of its own may well be called so."""


class Entry(NamedTuple):
    """A file, or what stands for a folder that is not gone into."""

    relative: str
    """Path below the root, with slashes."""
    reason: str
    """One of `REASONS` if it is known without looking into the file, or empty."""


class Tree(NamedTuple):
    """What lies below a folder."""

    folders: tuple[str, ...]
    """Its sub-folders and theirs, as paths below it, sorted; hidden and system folders are none."""
    entries: tuple[Entry, ...]
    """All files, in no order."""


class _Folder(NamedTuple):
    relative: str
    """Ends with a slash; empty for the root."""
    reason: str
    """Of all that is in it."""
    path: str


def walk(root: Path) -> Tree:
    """List a folder, and folders that links in it lead to. Each real folder is gone into once, and where it lies itself
    rather than where a link shows it: circles end, and no folder comes twice. Links within hidden and system folders
    are not followed.

    Raises
    ------
    DataError
        If the folder cannot be listed.
    """
    # Links to a folder around the root would bring what lies beside it.
    seen = {_identity(str(folder)) for folder in (root, *root.resolve().parents)}
    waiting, links = [_Folder("", "", str(root))], list[_Folder]()
    top, entries = set[str](), list[Entry]()
    while waiting or links:
        if not waiting:  # all that lies here itself has been seen
            links.sort()
            link, *links = links
            identity = _identity(link.path)
            if identity in seen:
                entries.append(Entry(link.relative.rstrip("/"), LOOP if _is_circle(link.path) else TWICE))
                continue
            seen.add(identity)
            waiting.append(link)
        folder = waiting.pop()
        if folder.relative.count("/") in (1, 2) and not folder.reason:
            top.add(folder.relative.rstrip("/"))
        try:
            found = list(os.scandir(folder.path))
        except OSError as error:
            if not folder.relative:
                raise DataError(f"dataset: the folder {root} cannot be listed: {error.strerror}") from error
            entries.append(Entry(folder.relative.rstrip("/"), folder.reason or UNREADABLE))
            continue
        for each in found:
            relative, kind = folder.relative + each.name, _kind(each)
            is_folder = kind in ("folder", "link")
            reason = folder.reason or _by_name(each.name, is_folder, depth=folder.relative.count("/"))
            inner = _Folder(f"{relative}/", reason, each.path)
            if kind == "link" and not reason:
                links.append(inner)
            elif kind != "folder":
                entries.append(Entry(relative, reason or ("" if is_folder else kind)))
            elif reason:  # not seen: a link may lead to images in a hidden folder
                waiting.append(inner)
            elif (identity := _identity(each.path)) in seen:
                entries.append(Entry(relative, TWICE))
            else:
                seen.add(identity)
                waiting.append(inner)
    return Tree(tuple(sorted(top)), tuple(entries))


def why_unread(root: Path, entry: Entry) -> str:
    """One of `REASONS` for a file that is no image of a format that is read, or empty; looks into it if need be."""
    if entry.reason:
        return entry.reason
    try:
        with open(os.path.join(root, entry.relative), "rb", buffering=0) as file:
            return unread_kind(file.read(HEAD_BYTES), entry.relative)
    except OSError:
        return UNREADABLE


def _by_name(name: str, is_folder: bool, depth: int) -> str:
    if name.startswith("."):
        return HIDDEN
    lower = name.casefold()
    # Network storage puts folders such as @eaDir everywhere, Windows $RECYCLE.BIN.
    system = lower in _SYSTEM_NAMES or name.startswith(("@", "$")) or (depth > 0 and lower in _COPIES)
    return SYSTEM if is_folder and system else ""


def _kind(entry: os.DirEntry[str]) -> str:
    """``folder``, ``link`` to a folder, empty for a file or a link to one, or one of `REASONS`."""
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.is_file(follow_symlinks=False):
        return ""
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        kinds = {errno.ELOOP: LOOP, errno.EACCES: UNREADABLE}
        return kinds.get(error.errno or 0, DANGLING)
    return "link" if stat.S_ISDIR(mode) else "" if stat.S_ISREG(mode) else SPECIAL


def _identity(path: str) -> tuple[int, int] | str:
    """What a folder is, whatever way leads to it."""
    try:
        found = os.stat(path)
    except OSError:  # removed meanwhile
        return path
    return found.st_dev, found.st_ino


def _is_circle(link: str) -> bool:
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, place]) == target
