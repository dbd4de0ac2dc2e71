"""What a file is, by its first bytes: names promise little (``.jpe``, ``.JFIF``, none, a web page as ``.jpg``)."""

from __future__ import annotations

from common.data.dicom import is_dicom
from common.data.png import PNG
from common.data.tiff import is_tiff

__all__ = ["ARCHIVE", "EMPTY", "HEAD_BYTES", "MISNAMED", "NO_IMAGE", "OTHER_FORMAT", "UNREAD", "unread_kind"]

HEAD_BYTES = 512
"""So much of a file is enough."""

NO_IMAGE, MISNAMED, EMPTY = "no image", "named as an image but none", "empty file"
ARCHIVE, OTHER_FORMAT = "archive", "another image format"
UNREAD = (
    *("HEIC", "AVIF", "JPEG 2000", "JPEG XL", "SVG", "PDF", "camera raw", "Photoshop", "video"),
    *(OTHER_FORMAT, ARCHIVE, EMPTY, MISNAMED, NO_IMAGE),
)
"""What files may be that are not read."""

_READ = (b"\xff\xd8\xff", PNG, b"GIF87a", b"GIF89a")
"""JPEG, PNG and GIF, of those of `common.data.decode`. What more it reads is told below."""
_BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes of the second header of a BMP: two letters alone are too few to go by."""
_STARTS = (
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\0\0\1\xba", "video"),
    (b"\0\0\1\0", OTHER_FORMAT),  # icons
    (b"II\xbc", OTHER_FORMAT),  # JPEG XR
    (b"v/1\1", OTHER_FORMAT),  # OpenEXR
    (b"#?RADIANCE", OTHER_FORMAT),
    (b"SIMPLE  =", OTHER_FORMAT),  # FITS
    (b"gimp xcf", OTHER_FORMAT),
    (b"%!PS", OTHER_FORMAT),
    (b"qoif", OTHER_FORMAT),
    (b"DDS ", OTHER_FORMAT),
    (b"PK\3\4", ARCHIVE),
    (b"\x1f\x8b", ARCHIVE),
    (b"7z\xbc\xaf'\x1c", ARCHIVE),
    (b"Rar!\x1a\7", ARCHIVE),
    (b"BZh", ARCHIVE),
    (b"\xfd7zXZ\0", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", ARCHIVE),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_RAW_SUFFIXES = (".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".cr2", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc")
"""Their files begin as a TIFF does, and what a reader of TIFF finds in them is a thumbnail."""
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx"),
    *(".dcm", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".svg"),
)


def unread_kind(head: bytes, name: str) -> str:
    """Why a file is not read as an image.

    Parameters
    ----------
    head
        Its first bytes, up to `HEAD_BYTES`.
    name
        Of the file; decides only where the bytes leave it open.

    Returns
    -------
    One of `UNREAD`; empty for a file that begins as an image of a format that is read.
    """
    lower = name.lower()
    if _is_read(head):
        raw = head.startswith((b"II*", b"MM\0*")) and (head[8:10] == b"CR" or lower.endswith(_RAW_SUFFIXES))
        return "camera raw" if raw else ""
    if not head:
        return EMPTY
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return ARCHIVE
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return "SVG"
    return MISNAMED if lower.endswith(_IMAGE_SUFFIXES) else NO_IMAGE


def _is_read(head: bytes) -> bool:
    if head.startswith(_READ) or is_tiff(head) or is_dicom(head):
        return True
    if head[:2] == b"BM":
        return int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS
    if head[:1] == b"P" and head[1:2] in b"123456f":  # f: floating-point grey
        return head[2:3] in (b" ", b"\t", b"\r", b"\n")
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _by_brand(head: bytes) -> str:
    """Of a file of ISO's media format: its brand, and those it is compatible with."""
    size = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size, 4))]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if brands[0] == b"crx ":
        return "camera raw"
    return "HEIC" if any(brand in _HEIC for brand in brands) else "video"
