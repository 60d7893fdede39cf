"""DICOMs of every depth and transfer syntax, and what must not be read from them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from shards_files import dataset, dicom, encapsulated, picture, saved

from cxrmim.shards import images
from cxrmim.shards.images import UnreadableError


def decode(content: bytes, side: int | None = None) -> np.ndarray:
    return images.decode(content, side).pixels


def by_maximum(pixels: np.ndarray) -> np.ndarray:
    """The official rule: times 255 / maximum, rounded."""
    return np.rint(pixels * (255 / pixels.max()))


RAMP = np.arange(200, dtype=np.uint8).reshape(10, 20)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_dicom_and_its_inversion(dtype):
    pixels = RAMP.astype(dtype) * (1 if dtype == np.uint8 else 15)
    plain = decode(dicom(pixels))
    assert (plain == by_maximum(pixels)).all()
    assert (decode(dicom(pixels, "MONOCHROME1")) == 255 - plain).all()


def test_twelve_bit_dicom_of_either_sign():
    pixels = RAMP.astype(np.uint16) * 20
    assert (decode(dicom(pixels, BitsStored=12, HighBit=11)) == by_maximum(pixels)).all()
    signed = pixels.astype(np.int16) - 500  # negative values count by their size
    expected = np.clip(np.rint(np.abs(signed * (255 / signed.max()))), 0, 255)
    assert (decode(dicom(signed, BitsStored=13, HighBit=12)) == expected).all()


def test_a_rescale_acts_where_it_changes_the_picture():
    pixels = RAMP.astype(np.uint16) * 20
    plain = by_maximum(pixels)
    for slope, intercept in ((1, 0), (0.25, 0), (1, -1024), (7.5, -300)):
        # A multiple is stretched away; what becomes negative is shifted back to black.
        found = decode(dicom(pixels, RescaleSlope=slope, RescaleIntercept=intercept))
        low = pixels * float(slope) + intercept
        assert (found == by_maximum(low - min(0, low.min()))).all()
        assert (found == plain).all()
    offset = decode(dicom(pixels, RescaleSlope=1, RescaleIntercept=1000))
    assert (offset == by_maximum(pixels + 1000.0)).all()
    assert (offset != plain).any()
    inverted = decode(dicom(pixels, RescaleSlope=-1, RescaleIntercept=int(pixels.max())))
    assert (inverted == by_maximum(pixels.max() - pixels.astype(float))).all()
    assert (decode(dicom(pixels, RescaleSlope=None, RescaleIntercept=None)) == plain).all()


def test_a_modality_table_is_applied():
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.LUTData = [4, 0, 8], [0, 10, 40, 100]
    lut["LUTDescriptor"].VR = "US"
    lut["LUTData"].VR = "US"
    lut.ModalityLUTType = "US"
    pixels = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    found = decode(dicom(pixels, ModalityLUTSequence=[lut]))
    assert found.tolist() == [[0, 26], [102, 255]]  # 10, 40 and 100 times 2.55


def test_colour_and_palette_dicoms():
    colours = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)
    data = dataset(RAMP[:1, :2], "RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    data.PixelData = colours.tobytes()
    assert decode(saved(data)).tolist() == [[129, 255]]  # 76 and 150 times 255 / 150
    data = dataset(np.array([[0, 1]], dtype=np.uint8), "PALETTE COLOR")
    for k, colour in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        values = struct.pack("<2H", *(int(colours[0, i, k]) * 257 for i in (0, 1)))
        setattr(data, f"{colour}PaletteColorLookupTableData", values)
    assert decode(saved(data)).tolist() == [[129, 255]]


def test_dicoms_of_every_transfer_syntax_that_a_decoder_reads():
    deep = (NOISE.astype(np.uint16) << 4) + 5
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless):
        data = dataset(deep, BitsStored=12, HighBit=11)
        if syntax == RLELossless:
            data.compress(RLELossless)
        data.file_meta.TransferSyntaxUID = syntax
        assert (decode(saved(data)) == by_maximum(deep)).all(), syntax.name
    data = dataset(deep, BitsStored=12, HighBit=11)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = deep.astype(">u2").tobytes()
    assert (decode(saved(data)) == by_maximum(deep)).all()
    image = Image.fromarray(NOISE)
    jpeg = picture(image, "JPEG", quality=95)
    expected = by_maximum(np.asarray(Image.open(io.BytesIO(jpeg))))
    assert (decode(encapsulated(NOISE, JPEGBaseline8Bit, jpeg)) == expected).all()
    lossless = picture(image, "JPEG2000", irreversible=False, no_jp2=True)
    assert (decode(encapsulated(NOISE, JPEG2000Lossless, lossless)) == by_maximum(NOISE)).all()


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, UID("1.2.3.4.5")])
def test_a_transfer_syntax_without_a_decoder_is_named(syntax):
    name = syntax.name if syntax != "1.2.3.4.5" else "unknown"
    with pytest.raises(UnreadableError) as caught:
        decode(encapsulated(NOISE, syntax, b"\0" * 64))
    assert str(caught.value) == f"no decoder for DICOM transfer syntax {name}"
    assert "1.2.3.4.5" not in str(caught.value)


def test_a_deflated_dicom_is_not_inflated(monkeypatch):
    data = dataset(np.zeros((64, 64), dtype=np.uint8))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content = saved(data)
    monkeypatch.setattr(zlib, "decompress", None)
    with pytest.raises(UnreadableError, match="no decoder for DICOM transfer syntax Deflated"):
        decode(content)


SECRETS = ("Doe^Jane", "19610203", "SECRETHOSPITAL", "PID-4711", "ACC-0815")


def test_what_names_a_patient_is_not_even_read(capfd, caplog):
    """Neither pixels, reasons, warnings nor the log repeat what a DICOM says about a patient."""
    tags = dict(
        zip(
            ("PatientName", "PatientBirthDate", "InstitutionName", "PatientID", "AccessionNumber"),
            SECRETS,
            strict=True,
        )
    )
    whole = dicom(NOISE, **tags)
    assert all(secret.encode() in whole for secret in SECRETS)
    seen = []
    with caplog.at_level("DEBUG"):
        seen.append(decode(whole).tobytes().decode("latin-1"))
        for content in (
            whole[: len(whole) // 2],
            dicom(NOISE, **tags, RescaleSlope=0, RescaleIntercept=0),
            whole.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00??"),  # Rows of no type
        ):
            assert all(secret.encode() in content for secret in SECRETS)
            with pytest.raises(UnreadableError) as caught:
                decode(content)
            seen += [str(caught.value), repr(caught.value.__cause__)]
    seen += [caplog.text, *capfd.readouterr()]
    assert not [secret for secret in SECRETS if secret in "".join(seen)]


def test_real_dicoms_one_the_inversion_of_the_other(repo):
    folder = repo.parent / "shared/real/rsna"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real radiographs are not part of the repository")
    plain = next(p for p in sorted(folder.glob("*.dcm")) if p.name.startswith("1.2"))
    found = decode(plain.read_bytes())
    assert found.shape == (1024, 1024)
    assert found.max() == 255
    inverted = decode((folder / "Fake_MONOHR1.dcm").read_bytes())
    assert (inverted == 255 - found).all()
