"""DICOM files as the RSNA and SIIM challenges have them: NIH's images, JPEG in 8 bits."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxrmim.phantom.findings import Patient

UID_ROOT = "1.2.276.0.7230010.3.1"
JPEG_QUALITY = 95


def make_dicom(
    pixels: NDArray[np.uint8],
    patient: Patient,
    view: str,
    uids: list[str],
    identity: str,
    inverted: bool = False,
) -> bytes:
    """A DICOM file: JPEG baseline, 8 bits, synthetic identity, no clock.

    Args:
        pixels: (rows, cols), bright where dense.
        patient: gives sex and age.
        view: PA or AP.
        uids: of the study, the series and the image.
        identity: patient's name and id.
        inverted: store MONOCHROME1.
    """
    shown = 255 - pixels if inverted else pixels
    jpeg = io.BytesIO()
    Image.fromarray(shown).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uids[2]
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID = "1.2.276.0.7230010.3.0.3.6.0"
    meta.ImplementationVersionName = "OFFIS_DCMTK_360"
    data = Dataset()
    data.file_meta = meta
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = uids[2]
    data.StudyDate, data.StudyTime = "19010101", "000000.00"
    data.AccessionNumber = ""
    data.Modality, data.ConversionType = "CR", "WSD"
    data.ReferringPhysicianName = ""
    data.SeriesDescription = f"view: {view}"
    data.PatientName = data.PatientID = identity
    data.PatientBirthDate = ""
    data.PatientSex = patient.sex
    # The challenge's files say 62 where the standard wants 062Y.
    data.add(DataElement(0x00101010, "AS", str(patient.age), validation_mode=IGNORE))
    data.BodyPartExamined, data.ViewPosition = "CHEST", view
    data.StudyInstanceUID, data.SeriesInstanceUID = uids[0], uids[1]
    data.StudyID, data.SeriesNumber, data.InstanceNumber = "", "1", "1"
    data.PatientOrientation = ""
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing = ["0.168", "0.168"]
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "ISO_10918_1"
    data.PixelData = encapsulate([jpeg.getvalue()])
    data["PixelData"].VR = "OB"
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()
