"""What a derived image takes over from the images that it was made of, module by module of the standard (PS3.3)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset


def _keywords(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Equal in all images of a series: Patient, Clinical Trial, General and Patient Study, General Series, Frame of
#: Reference, General Equipment. Private elements are never taken over: what they say is true of the scanner's images.
OF_SERIES = _keywords(
    """
    SpecificCharacterSet TimezoneOffsetFromUTC
    PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID PatientBirthDate
    PatientBirthTime PatientSex OtherPatientIDsSequence OtherPatientNames EthnicGroup PatientComments
    PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence
    BreedRegistrationSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization QualityControlSubject
    ReferencedPatientSequence PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName
    ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointID ClinicalTrialTimePointDescription
    ClinicalTrialCoordinatingCenterName
    StudyInstanceUID StudyDate StudyTime ReferringPhysicianName ReferringPhysicianIdentificationSequence StudyID
    AccessionNumber IssuerOfAccessionNumberSequence StudyDescription PhysiciansOfRecord
    PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy ConsultingPhysicianName
    ReferencedStudySequence
    ProcedureCodeSequence RequestingService
    AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientWeight
    PatientBodyMassIndex Occupation AdditionalPatientHistory AdmissionID ServiceEpisodeID PregnancyStatus MedicalAlerts
    Allergies SmokingStatus LastMenstrualDate PatientSexNeutered PatientState
    Modality Laterality ProtocolName BodyPartExamined PatientPosition AnatomicalOrientationType PerformingPhysicianName
    OperatorsName RequestAttributesSequence PerformedProcedureStepID PerformedProcedureStepStartDate
    PerformedProcedureStepStartTime PerformedProcedureStepDescription PerformedProtocolCodeSequence
    ReferencedPerformedProcedureStepSequence
    FrameOfReferenceUID PositionReferenceIndicator
    Manufacturer InstitutionName InstitutionAddress StationName InstitutionalDepartmentName ManufacturerModelName
    DeviceSerialNumber SoftwareVersions GantryID SpatialResolution
    """
)

#: Of the slice nearest to an image: General Image, Contrast/Bolus, MR Image, VOI LUT.
OF_IMAGE = _keywords(
    """
    AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber PatientOrientation QualityControlImage
    BurnedInAnnotation RecognizableVisualFeatures LossyImageCompression LossyImageCompressionRatio
    LossyImageCompressionMethod AnatomicRegionSequence PrimaryAnatomicStructureSequence
    ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusRoute ContrastBolusAdministrationRouteSequence
    ContrastBolusVolume ContrastBolusStartTime ContrastBolusStopTime ContrastBolusTotalDose ContrastFlowRate
    ContrastFlowDuration ContrastBolusIngredient ContrastBolusIngredientConcentration
    ScanningSequence SequenceVariant ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength InversionTime
    TriggerTime SequenceName AngioFlag NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers MagneticFieldStrength
    NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth NominalInterval BeatRejectionFlag
    LowRRValue HighRRValue IntervalsAcquired IntervalsRejected PVCRejection SkipBeats HeartRate CardiacNumberOfImages
    TriggerWindow ReconstructionDiameter ReceiveCoilName TransmitCoilName AcquisitionMatrix
    InPlanePhaseEncodingDirection FlipAngle SAR VariableFlipAngleFlag dBdt TemporalPositionIdentifier
    NumberOfTemporalPositions TemporalResolution DiffusionBValue DiffusionGradientOrientation
    ContributingEquipmentSequence
    """
)

#: Of an image that shows its values; never those of a map.
OF_WINDOW = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction")

#: Type 2: there, and empty where nobody knows.
REQUIRED = _keywords(
    """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber
    PositionReferenceIndicator Manufacturer ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength
    PatientPosition
    """
)

#: Where an enhanced image keeps what a classic one has: functional group, its element, ours.
_IN_GROUPS = (
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionDateTime"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("FrameVOILUTSequence", "WindowCenter", "WindowCenter"),
    ("FrameVOILUTSequence", "WindowWidth", "WindowWidth"),
    ("FrameVOILUTSequence", "WindowCenterWidthExplanation", "WindowCenterWidthExplanation"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("MRTimingAndRelatedParametersSequence", "EchoTrainLength", "EchoTrainLength"),
    ("MRAveragesSequence", "NumberOfAverages", "NumberOfAverages"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
    ("MRImagingModifierSequence", "PixelBandwidth", "PixelBandwidth"),
    ("MRImagingModifierSequence", "TransmitterFrequency", "ImagingFrequency"),
    ("MRReceiveCoilSequence", "ReceiveCoilName", "ReceiveCoilName"),
    ("MRTransmitCoilSequence", "TransmitCoilName", "TransmitCoilName"),
    ("MRFOVGeometrySequence", "PercentSampling", "PercentSampling"),
    ("MRFOVGeometrySequence", "PercentPhaseFieldOfView", "PercentPhaseFieldOfView"),
    ("MRFOVGeometrySequence", "InPlanePhaseEncodingDirection", "InPlanePhaseEncodingDirection"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
)
#: And in the image itself, under other names.
_IN_IMAGE = (("ResonantNucleus", "ImagedNucleus"), ("PulseSequenceName", "SequenceName"))


def take(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copy public elements that have a value; one that cannot be read counts as missing."""
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in source:  # an older pydicom does not know every one
            continue
        with contextlib.suppress(Exception):  # pydicom lets whatever a damaged value causes escape
            element = source[tag]
            # What cannot be read as what it is, pydicom gives as something else, or as text.
            if element.VM and element.VR in dictionary_VR(tag) and _is_readable(element):
                target.add(_public(element))


def item(**values: Any) -> Dataset:
    """Make an item of a sequence of elements by their keywords."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    """Make a coded entry."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def flattened(image: Dataset, index: int) -> Dataset:
    """Give one frame of an enhanced image as a classic one would tell it; a classic image as it is.

    Args:
        image: the whole header.
        index: of the frame.
    """
    groups = image.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return image
    own, shared = groups[index], (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    flat = Dataset()
    take(image, flat, (*OF_SERIES, *OF_IMAGE, "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"))
    take(image, flat, ("SeriesNumber", "SeriesDescription", "ImageType"))
    for theirs, ours in _IN_IMAGE:
        _rename(image, theirs, flat, ours)
    for group, theirs, ours in _IN_GROUPS:
        for where in (own, shared):
            for item in where.get(group) or ():
                _rename(item, theirs, flat, ours)
    _tell_sequence(image, flat)
    return flat


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom from telling users what in the scanner's values is not as the standard has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tell_sequence(image: Dataset, flat: Dataset) -> None:
    """Say in the classic image's words what kind of pulse sequence an enhanced image was made with."""
    echo = str(image.get("EchoPulseSequence", ""))
    found = [name for word, name in (("SPIN", "SE"), ("GRADIENT", "GR")) if echo in (word, "BOTH")]
    if str(image.get("InversionRecovery", "")) == "YES" or flat.get("InversionTime") is not None:
        found.append("IR")
    if str(image.get("EchoPlanarPulseSequence", "")) == "YES":
        found.append("EP")
    flat.ScanningSequence = found or ["RM"]  # research mode: all that is left for what nobody told
    flat.SequenceVariant = "SK" if str(image.get("SegmentedKSpaceTraversal", "")) != "SINGLE" else "NONE"


def _rename(source: Dataset, theirs: str, target: Dataset, ours: str) -> None:
    with contextlib.suppress(Exception):  # as in `take`
        value = source.get(theirs)
        if value in (None, "") or ours in target:
            return
        if theirs == "InversionTimes":
            value = value if isinstance(value, float | int) else value[0]
        if isinstance(value, float):
            value = f"{value:.10g}"
        setattr(target, ours, value)


def _is_readable(element: DataElement) -> bool:
    values = element.value if element.VM > 1 else [element.value]
    if element.VR in ("DS", "IS"):
        return all(isinstance(value, float | int | Decimal) for value in values)
    return element.value not in (None, "")


def _public(element: DataElement) -> DataElement:
    """Give an element without the private ones that items of a sequence may hold."""
    if element.VR == "SQ":
        for item in element.value:
            item.remove_private_tags()
    return element
