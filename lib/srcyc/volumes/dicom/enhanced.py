"""The same series as one enhanced image: its frames are the planes."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from srcyc.volumes.dicom.attributes import code, item, take
from srcyc.volumes.dicom.source import ENHANCED_MR_IMAGE

#: What a classic image says of itself, and an enhanced one of its frames.
_OF_FRAMES = (
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ImageOrientationPatient", "DerivationDescription", "DerivationCodeSequence", "SourceImageSequence"),
    *("Laterality", "WindowCenter", "WindowWidth"),
)  # fmt: skip
#: Of the scan's images, what an enhanced one says as a whole.
_OF_IMAGE = (
    *(
        "BurnedInAnnotation",
        "LossyImageCompression",
        "LossyImageCompressionRatio",
        "LossyImageCompressionMethod",
    ),
    *("MagneticFieldStrength", "ApplicableSafetyStandardAgency"),
)
#: Of type 2: there, and empty where nobody knows.
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber", "PositionReferenceIndicator", "PatientPosition"),
)
#: Names of equipment that have to be there; whoever made the scan may not have said them.
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")
_UNKNOWN = "UNKNOWN"
#: Required of every frame: the part of the body, of which a scan may say nothing.
_BRAIN, _BODY = ("12738006", "Brain", "SCT"), ("38266002", "Entire body", "SCT")
_HEADS = ("BRAIN", "HEAD", "SKULL")


def enhanced(
    common: Dataset,
    first: Dataset,
    positions: Sequence[Sequence[str]],
    window: tuple[str, str],
    *,
    instance: str,
    organisation: str,
) -> Dataset:
    """Give an enhanced MR image without its pixels.

    Args:
        common: what all images of the classic series have in common.
        first: header of the scan.
        positions: Image Position (Patient) of each frame.
        window: centre and width.
        instance: SOP Instance UID.
        organisation: UID of the way its frames are indexed.
    """
    image = Dataset()
    image.update(common)
    for keyword in _OF_FRAMES:
        if keyword in image:
            delattr(image, keyword)
    take(first, image, _OF_IMAGE)
    for keyword in _EQUIPMENT:
        if not image.get(keyword):
            setattr(image, keyword, _UNKNOWN)
    for keyword in _REQUIRED:
        if keyword not in image:
            setattr(image, keyword, None)
    for keyword, day in (("ContentDate", "StudyDate"), ("ContentTime", "StudyTime")):
        if not image.get(keyword):
            setattr(image, keyword, first.get(day) or ("19000101" if keyword == "ContentDate" else "000000"))
    image.SOPClassUID, image.SOPInstanceUID, image.InstanceNumber = ENHANCED_MR_IMAGE, instance, 1
    # The standard lets value 2 be nothing else here.
    image.ImageType = ["DERIVED", "PRIMARY", "OTHER", "RESAMPLED"]
    kind = {
        "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME",
        "VolumeBasedCalculationTechnique": "NONE",
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": _UNKNOWN,
    }
    image.update(item(**kind))
    image.ContentQualification, image.PresentationLUTShape = "RESEARCH", "IDENTITY"
    image.AcquisitionContextSequence = []
    image.BurnedInAnnotation = image.get("BurnedInAnnotation") or "NO"
    image.LossyImageCompression = image.get("LossyImageCompression") or "00"
    # That of the world, where the scan does not say which one it was made under.
    image.ApplicableSafetyStandardAgency = image.get("ApplicableSafetyStandardAgency") or "IEC"
    image.SourceImageEvidenceSequence = [_evidence(common, first)]
    image.NumberOfFrames = len(positions)
    image.DimensionOrganizationType = "3D"
    image.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
    image.DimensionIndexSequence = [
        item(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=Tag(name),
            FunctionalGroupPointer=Tag("FrameContentSequence"),
        )
        for name in ("StackID", "InStackPositionNumber")
    ]
    image.SharedFunctionalGroupsSequence = [_shared(common, first, window, kind)]
    image.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[
                item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[1, number])
            ],
            PlanePositionSequence=[item(ImagePositionPatient=list(position))],
        )
        for number, position in enumerate(positions, 1)
    ]
    return image


def _shared(common: Dataset, first: Dataset, window: tuple[str, str], kind: dict[str, str]) -> Dataset:
    region = first.get("AnatomicRegionSequence") or [
        code(*(_BRAIN if str(first.get("BodyPartExamined", "")).upper() in _HEADS else _BODY))
    ]
    names = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    derivation = ("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence")
    values = ("RescaleIntercept", "RescaleSlope", "RescaleType")
    return item(
        PixelMeasuresSequence=[_some(common, names)],
        PlaneOrientationSequence=[_some(common, ("ImageOrientationPatient",))],
        PixelValueTransformationSequence=[_some(common, values)],
        FrameVOILUTSequence=[item(WindowCenter=window[0], WindowWidth=window[1])],
        MRImageFrameTypeSequence=[item(FrameType=["DERIVED", "PRIMARY", "OTHER", "RESAMPLED"], **kind)],
        DerivationImageSequence=[_some(common, derivation)],
        FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=list(region))],
    )


def _evidence(common: Dataset, first: Dataset) -> Dataset:
    """List the scan's instances by study and series."""
    instances = {
        str(one.ReferencedSOPInstanceUID): str(one.ReferencedSOPClassUID)
        for one in common.SourceImageSequence
    }
    series = item(
        SeriesInstanceUID=str(first.get("SeriesInstanceUID")),
        ReferencedSOPSequence=[
            item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for uid, kind in instances.items()
        ],
    )
    return item(StudyInstanceUID=common.StudyInstanceUID, ReferencedSeriesSequence=[series])


def _some(source: Dataset, keywords: Sequence[str]) -> Dataset:
    return item(**{keyword: source[keyword].value for keyword in keywords})
