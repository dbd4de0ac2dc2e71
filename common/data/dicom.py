"""DICOM files to pixels, by the package pydicom: the first frame, as a viewer first shows it.

Attributes and formulas are those of DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (modality) and C.11.2 (window).
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.pixel_range import PixelRange, to_bytes, unknown_range
from common.errors import DataError
from common.extras import require

__all__ = ["DICOM_HEAD", "is_dicom", "read_dicom"]

DICOM_HEAD = 132
"""Bytes by which a file is known: a preamble of 128, and four letters."""


def is_dicom(start: bytes) -> bool:
    """Whether a file begins as one; ``start`` has `DICOM_HEAD` bytes."""
    return start[128:DICOM_HEAD] == b"DICM"


def read_dicom(file: BinaryIO, most: int, wanted: PixelRange | None) -> Image.Image:
    """Decode the first frame.

    Stored values become those of the modality (Hounsfield units, for instance), the window maps these to grey, and
    MONOCHROME1 is turned to black on white. Without a window, a VOI LUT or a range in the config, all values that the
    bits stored can hold lie between black and white.

    Parameters
    ----------
    file
        For which `is_dicom` holds; at its beginning.
    most
        Pixels that are decoded at most.
    wanted
        Values of the modality that are black and white, before MONOCHROME1 is turned; None takes the file's.

    Returns
    -------
    In mode L or RGB.

    Raises
    ------
    DataError
        If it has more pixels, or values of a range that nothing says.
    ConfigError
        If pydicom is not installed.
    Exception
        Whatever pydicom raises for damaged files, and for compressions that it needs other packages for.
    """
    pydicom = require("pydicom", "dicom", "a DICOM file")
    pixels = require("pydicom.pixels", "dicom", "a DICOM file")
    header = pydicom.dcmread(file, stop_before_pixels=True)
    width, height = int(header.Columns), int(header.Rows)
    if width * height > most:
        raise DataError(f"{width} x {height} pixels; at most {most:,} are decoded")
    file.seek(0)
    stored = pixels.pixel_array(file, index=0)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored = pixels.apply_color_lut(stored, header)
    if stored.ndim == 3:
        depth = 8 * stored.dtype.itemsize if header.PhotometricInterpretation == "PALETTE COLOR" else header.BitsStored
        return Image.fromarray(to_bytes(stored[..., :3], PixelRange(0, 2 ** int(depth) - 1)))
    grey = _grey(stored, header, pixels, wanted)
    return Image.fromarray(255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey)


def _grey(stored: NDArray[Any], header: Any, pixels: Any, wanted: PixelRange | None) -> NDArray[np.uint8]:
    transform = _group(header, "PixelValueTransformationSequence")
    if "ModalityLUTSequence" in transform:
        values = pixels.apply_modality_lut(stored, transform)
        full = PixelRange(0, 2 ** _lut_bits(transform.ModalityLUTSequence[0]) - 1)
    else:
        slope, intercept = (float(transform.get(name, other)) for name, other in _RESCALE)
        values = stored * slope + intercept if (slope, intercept) != (1, 0) else stored
        full = _full(stored, header, slope, intercept)
    if wanted is not None:
        return to_bytes(values, wanted)
    view = _group(header, "FrameVOILUTSequence")
    window = _window(view)
    if window is not None:
        return _windowed(values, *window, view.get("VOILUTFunction", "LINEAR"))
    if "VOILUTSequence" in view:
        bits = _lut_bits(view.VOILUTSequence[0])
        return to_bytes(pixels.apply_voi(values.astype(np.int64), view), PixelRange(0, 2**bits - 1))
    if stored.dtype.kind == "f":
        raise unknown_range("floating-point")
    if int(header.BitsStored) > 16:
        raise unknown_range(f"{header.BitsStored}-bit")
    return to_bytes(values, full)


_RESCALE = (("RescaleSlope", 1), ("RescaleIntercept", 0))


def _group(header: Any, name: str) -> Any:
    """Where the attributes of the first frame are: in a functional group of its own or of all frames, or at the top."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        found = header.get(groups)
        if found and found[0].get(name):
            return found[0][name].value[0]
    return header


def _full(stored: NDArray[Any], header: Any, slope: float, intercept: float) -> PixelRange:
    bits = int(header.get("BitsStored", 16))
    least = -(2 ** (bits - 1)) if stored.dtype.kind == "i" else 0
    ends = sorted(value * slope + intercept for value in (least, least + 2**bits - 1))
    return PixelRange(*ends) if ends[0] < ends[1] else PixelRange(0, 2**bits - 1)


def _lut_bits(table: Any) -> int:
    return int(table.LUTDescriptor[2])


def _window(view: Any) -> tuple[float, float] | None:
    """Centre and width of the first one."""
    centre, width = (view.get(name) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    found = tuple(float(np.ravel(value)[0]) for value in (centre, width) if np.size(value))
    return (found[0], found[1]) if len(found) == 2 and found[1] > 0 else None


def _windowed(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.uint8]:
    if function == "SIGMOID":
        return to_bytes(1 / (1 + np.exp(-4 * (values - centre) / width)), PixelRange(0, 1))
    if function == "LINEAR" and width > 1:  # by the standard its ends are whole values, and the centre is half a one up
        return to_bytes(values, PixelRange(centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2))
    if function == "LINEAR":  # a threshold
        return np.where(values > centre - 0.5, np.uint8(255), np.uint8(0))
    return to_bytes(values, PixelRange(centre - width / 2, centre + width / 2))
