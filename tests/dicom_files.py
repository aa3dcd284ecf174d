"""DICOM series as files: one small oblique series, classic and enhanced, that tests spoil in one way each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS, SLICES = 5, 7, 4
SPACING = (0.9, 0.8)  # between rows, between columns
GAP = 6.0
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

OBLIQUE_ROW = np.array([0.96, 0.28, 0.0])
OBLIQUE_COLUMN = np.array([-0.28 * 0.8, 0.96 * 0.8, -0.6])
NORMAL = np.cross(OBLIQUE_ROW, OBLIQUE_COLUMN)
ORIGIN = np.array([-40.0, -30.0, 12.5])


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, (ROWS, COLUMNS)).astype(np.int16)


def make_slice(number: int, position: Sequence[float] | None = None) -> Dataset:
    """One MR image of the oblique series, complete enough for every reader."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MR_IMAGE
    meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.is_little_endian, data.is_implicit_VR = True, False
    data.SOPClassUID = MR_IMAGE
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.Modality = "MR"
    data.SeriesInstanceUID = "1.2.3.4"
    data.StudyInstanceUID = "1.2.3"
    data.SeriesNumber, data.SeriesDescription = 5, "t1 tra"
    data.InstanceNumber = number + 1
    data.Rows, data.Columns = ROWS, COLUMNS
    data.PixelSpacing = list(SPACING)
    data.SliceThickness, data.SpacingBetweenSlices = 5.0, 1.0  # a vendor's gap, not the distance
    data.ImageOrientationPatient = [*OBLIQUE_ROW, *OBLIQUE_COLUMN]
    place = ORIGIN + number * GAP * NORMAL if position is None else np.asarray(position)
    data.ImagePositionPatient = [round(float(v), 8) for v in place]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = pixels(number).tobytes()
    return data


def save(folder: Path, slices: Sequence[Dataset], names: Sequence[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for index, data in enumerate(slices):
        name = names[index] if names else f"IM{index:04d}.dcm"
        data.save_as(folder / name, write_like_original=False)
    return folder


def make_series(count: int = SLICES) -> list[Dataset]:
    return [make_slice(number) for number in range(count)]


def expected_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 0] = OBLIQUE_ROW * SPACING[1]
    affine[:3, 1] = OBLIQUE_COLUMN * SPACING[0]
    affine[:3, 2] = NORMAL * GAP
    affine[:3, 3] = ORIGIN
    return LPS @ affine


def expected_voxels() -> np.ndarray:
    return np.stack([pixels(number).T for number in range(SLICES)], axis=-1)


def sequence(**values: object) -> DicomSequence:
    """A sequence of one item with these elements."""
    item = Dataset()
    for key, value in values.items():
        setattr(item, key, value)
    return DicomSequence([item])


def make_enhanced(order: Sequence[int] = range(SLICES), slopes: Sequence[float] = (2.0,) * SLICES) -> Dataset:
    """The same oblique series in one file."""
    data = make_slice(0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, key)
    data.NumberOfFrames = len(order)
    data.PixelData = b"".join(pixels(number).tobytes() for number in order)

    shared = Dataset()
    shared.PixelMeasuresSequence = sequence(PixelSpacing=list(SPACING), SliceThickness=5.0)
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=[*OBLIQUE_ROW, *OBLIQUE_COLUMN])
    data.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for number in order:
        frame = Dataset()
        place = ORIGIN + number * GAP * NORMAL
        frame.PlanePositionSequence = sequence(ImagePositionPatient=[round(float(v), 8) for v in place])
        frame.PixelValueTransformationSequence = sequence(
            RescaleSlope=str(slopes[number]), RescaleIntercept="-1", RescaleType="US"
        )
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    return data
