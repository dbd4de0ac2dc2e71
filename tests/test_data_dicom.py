"""DICOM files, written here with pydicom, become known pixels."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.data import decode, open_split
from common.data.decode import decode_image
from common.data.pixel_range import PixelRange
from common.errors import ConfigError, DataError
from tests.pictures import SIDE, colours, picture

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid  # noqa: E402

GREY = np.repeat(picture()[..., None], 3, axis=2)
HOUNSFIELD = picture().astype(np.int16) * 4 - 200  # -200 .. 820


def dicom(pixels: NDArray[np.generic], frames: int = 1, packed: bool = False, **attributes: object) -> bytes:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(made, name, value)
    made.HighBit = made.BitsStored - 1
    data = pixels.tobytes()
    if frames > 1:
        made.NumberOfFrames = frames
        data += bytes(len(data)) * (frames - 1)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.PixelData = data
    made["PixelData"].VR = "OW"
    if packed:
        made.compress(RLELossless)
    file = BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def decoded(file: bytes, pixel_range: PixelRange | None = None) -> NDArray[np.uint8]:
    return decode_image(BytesIO(file), SIDE, pixel_range=pixel_range)


def near(pixels: NDArray[np.uint8], expected: NDArray[np.generic]) -> bool:
    return bool(abs(pixels.astype(int) - expected).max() <= 1)


CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "BitsStored": 12}
STORED = (HOUNSFIELD + 1024).astype(np.uint16)


def test_the_window_says_what_is_black_and_white() -> None:
    # Width 401 about 40.5 is -160 .. 240, by the formula of the standard.
    expected = np.clip((HOUNSFIELD + 160.0) / 400 * 255, 0, 255).round()[..., None]
    assert near(decoded(dicom(STORED, **CT, WindowCenter=40.5, WindowWidth=401)), expected)
    assert near(decoded(dicom(STORED, **CT, WindowCenter=[40.5, 0], WindowWidth=[401, 9])), expected)
    exact = {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    assert near(decoded(dicom(STORED, **CT, **exact)), expected)
    curve = {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"}
    smooth = 255 / (1 + np.exp(-4 * (HOUNSFIELD - 40.0) / 400))
    assert near(decoded(dicom(STORED, **CT, **curve)), smooth[..., None])
    assert near(decoded(dicom(STORED, **CT, WindowCenter=0.5, WindowWidth=1)), (HOUNSFIELD > 0)[..., None] * 255)


def test_a_range_in_the_config_counts_before_the_window_in_values_of_the_modality() -> None:
    file = dicom(STORED, **CT, WindowCenter=0, WindowWidth=10)
    assert np.array_equal(decoded(file, PixelRange(-200, 820)), GREY)
    signed = dicom(HOUNSFIELD, WindowCenter=0, WindowWidth=10)
    assert np.array_equal(decoded(signed, PixelRange(-200, 820)), GREY)


def test_without_a_window_all_that_the_bits_hold_is_shown() -> None:
    assert np.array_equal(decoded(dicom(picture())), GREY)
    assert np.array_equal(decoded(dicom(picture().astype(np.uint16) // 17 * 273, BitsStored=12)), GREY)
    assert np.array_equal(decoded(dicom(picture().astype(np.uint16) * 257)), GREY)
    signed = (picture().astype(np.int32) // 17 * 273 - 2048).astype(np.int16)
    assert np.array_equal(decoded(dicom(signed, BitsStored=12)), GREY)
    assert np.array_equal(decoded(dicom(picture(), RescaleSlope=-1, RescaleIntercept=0)), 255 - GREY)
    for odd in (
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5},
        {"WindowCenter": None, "WindowWidth": None},
    ):
        assert np.array_equal(decoded(dicom(picture(), **odd)), GREY)


def test_monochrome1_is_turned() -> None:
    white = {"PhotometricInterpretation": "MONOCHROME1"}
    assert np.array_equal(decoded(dicom(picture(), **white)), 255 - GREY)
    assert np.array_equal(decoded(dicom(STORED, **CT, **white), PixelRange(-200, 820)), 255 - GREY)


def test_tables_in_place_of_a_window_and_of_a_slope() -> None:
    ramp = np.arange(256, dtype="<u2") * 257
    table = item(LUTDescriptor=[256, 0, 16], LUTData=ramp[::-1].tobytes())
    assert np.array_equal(decoded(dicom(picture(), VOILUTSequence=[table])), 255 - GREY)
    table = item(LUTDescriptor=[256, 0, 16], LUTData=ramp.tobytes(), ModalityLUTType="US")
    assert np.array_equal(decoded(dicom(picture(), ModalityLUTSequence=[table])), GREY)


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_the_first_frame_of_several_with_its_own_window(groups: str) -> None:
    group = item(
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        FrameVOILUTSequence=[item(WindowCenter=310.5, WindowWidth=1021)],
    )
    assert np.array_equal(decoded(dicom(STORED, 3, BitsStored=12, **{groups: [group]})), GREY)
    assert np.array_equal(decoded(dicom(picture(), 3)), GREY)


def test_colours_and_compression() -> None:
    assert np.array_equal(decoded(dicom(colours())), colours())
    assert np.array_equal(decoded(dicom(picture(), packed=True)), GREY)
    assert np.array_equal(decoded(dicom(colours(), packed=True)), colours())
    ramp = np.arange(256, dtype=np.uint16) * 257
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp // 2)):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = values.astype("<u2").tobytes()
    shown = np.stack([picture(), 255 - picture(), picture() // 2], axis=2)
    assert near(decoded(dicom(picture(), **palette)), shown)


def test_values_without_a_range_and_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = dicom(picture().astype(np.uint32))
    with pytest.raises(DataError, match="32-bit pixels have no known range; set pixel-range"):
        decoded(wide)
    assert np.array_equal(decoded(wide, PixelRange(0, 255)), GREY)
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="at most 100"):
        decoded(dicom(picture()))


def test_a_folder_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "lung").mkdir(parents=True)
    (tmp_path / "data" / "lung" / "1.dcm").write_bytes(dicom(STORED, **CT))
    (tmp_path / "data" / "lung" / "2.dcm").write_bytes(dicom(STORED, **CT)[:500])
    wanted = PixelRange(-200, 820)
    split = open_split(f"folder:{tmp_path / 'data'}", "train", SIDE, tmp_path / "cache", own=True, pixel_range=wanted)
    loaded = split.load(np.arange(2))
    assert np.array_equal(loaded.images, GREY[None])
    assert loaded.broken == 1
    monkeypatch.setitem(sys.modules, "pydicom", None)
    split = open_split(f"folder:{tmp_path / 'data'}", "train", SIDE, tmp_path / "elsewhere", own=True)
    with pytest.raises(ConfigError, match=r"a DICOM file needs the package pydicom.*\[dicom\]"):
        split.load(np.arange(2))
