"""Image files made by hand: pictures of every kind and DICOMs of any tag and transfer syntax."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage


def picture(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    handle = io.BytesIO()
    image.save(handle, kind, **options)
    return handle.getvalue()


def dataset(pixels: np.ndarray, interpretation: str = "MONOCHROME2", **tags) -> pydicom.Dataset:
    """A DICOM of grey pixels (H, W) or frames (n, H, W); tags are added or replaced."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2"
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2"
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, interpretation
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def saved(data: pydicom.Dataset) -> bytes:
    handle = io.BytesIO()
    data.save_as(handle, enforce_file_format=True)
    return handle.getvalue()


def dicom(pixels: np.ndarray, interpretation: str = "MONOCHROME2", **tags) -> bytes:
    return saved(dataset(pixels, interpretation, **tags))


def encapsulated(pixels: np.ndarray, syntax: UID, frame: bytes, **tags) -> bytes:
    """A DICOM whose pixels are one compressed frame."""
    data = dataset(pixels, **tags)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame])
    data["PixelData"].is_undefined_length = True
    handle = io.BytesIO()
    data.save_as(handle, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return handle.getvalue()
