"""What is told about every result: the sidecar beside the output file."""

from __future__ import annotations

from typing import Literal

from srcyc.files import sha256
from srcyc.inference.options import InferenceOptions
from srcyc.physics.thickness import SliceThickness
from srcyc.schema import Schema
from srcyc.volumes.intensity import IntensityScaling
from srcyc.volumes.volume import Volume

#: Goes into every report.
NOTE = "Research software: the added detail is estimated by a network. Not for diagnostic use."

Triple = tuple[float, float, float]


class InputReport(Schema):
    """The scan: array axes in the order of its file, mm; ``sha256`` is None for data that came from memory.

    ``series``: Series Instance UID of a DICOM series, whose files ``sha256`` covers.
    """

    name: str | None
    sha256: str | None
    shape: tuple[int, int, int]
    spacing: Triple
    slice_thickness: float | None
    series: str | None = None


class ResultReport(Schema):
    """The output grid, axes in the scan's order, mm."""

    shape: tuple[int, int, int]
    spacing: Triple


class ModelReport(Schema):
    """Which weights were used."""

    name: str
    sha256: str
    licence: str


class ConsistencyReport(Schema):
    """How the result x agrees with the scan y, its acquisition operator being A.

    Attributes:
        applied: whether only what A does not see was added.
        slices_corrected: whether the slices were corrected by delta first.
        correction: ``||delta|| / ||y||``: by how much they were.
        correction_share: of what the network wanted to correct: less than 1 where the whole would have made
            neighbouring slices differ more (:func:`srcyc.physics.slice_gain.correction_share`).
        residual: ``||A x - (y + delta)|| / ||y + delta||``: what is left, rounding if the above was applied.
    """

    applied: bool
    slices_corrected: bool
    correction: float
    residual: float
    correction_share: float = 1.0


class AnyReport(Schema):
    """What is told of every result; ``model_dump(mode="json")`` is the sidecar.

    Attributes:
        software: name and version.
        model: weights used.
        input: the scan; of several stacks, the first.
        result: the output grid.
        options: what was asked for.
        preprocessing: steps applied to a scan first.
        device: where the network ran.
        precision: its floating-point type.
        seconds: wall-clock time of the call.
        peak_memory: greatest resident memory of the process so far, bytes; None where the system does not tell.
        warnings: reasons for distrust, in sentences.
        note: what the result is not for.
    """

    software: str
    model: ModelReport
    input: InputReport
    result: ResultReport
    options: InferenceOptions
    preprocessing: tuple[str, ...]
    device: str
    precision: str
    seconds: float
    peak_memory: int | None
    warnings: tuple[str, ...]
    note: str = NOTE


class Report(AnyReport):
    """How a result of one scan was made.

    Attributes:
        thick_axis: array axis of the slices.
        factor: by how much that axis was enlarged.
        thickness: of the slices, as the acquisition operator had it.
        scaling: intensity scaling; None for a constant scan, which needs no network.
        sigma: noise standard deviation of the scan, normalised intensity.
        consistency: data consistency.
    """

    thick_axis: Literal[0, 1, 2]
    factor: float
    thickness: SliceThickness
    scaling: IntensityScaling | None
    sigma: float
    consistency: ConsistencyReport


class StackReport(Schema):
    """One of several stacks that were combined.

    Attributes:
        input: the scan.
        thick_axis: array axis of its slices.
        factor: by how much that axis was enlarged.
        thickness: of its slices, as the acquisition operator had it.
        sigma: noise standard deviation, normalised intensity.
        correction: ``||delta|| / ||y||``: by how much its slices were corrected.
        matrix: ``(4, 4)``: where a point of the result's world (RAS mm) lies in the stack's.
        rotation: of that motion, degrees about R, then A, then S.
        translation: of that motion, mm towards R, A and S at the middle of the result.
        similarity: correlation of its own result with the first stack's inside the head.
        gain: its intensities were multiplied by this;
        offset: and this was added.
        residual_of_mean: ``||A x - y|| / ||y||`` of the mean of the stacks' own results, y with its slices corrected.
        residual: the same of the result.
    """

    input: InputReport
    thick_axis: Literal[0, 1, 2]
    factor: float
    thickness: SliceThickness
    sigma: float
    correction: float
    matrix: tuple[tuple[float, ...], ...]
    rotation: Triple
    translation: Triple
    similarity: float
    gain: float
    offset: float
    residual_of_mean: float
    residual: float


class CombinationReport(AnyReport):
    """How a result of several stacks was made.

    Attributes:
        stacks: all of them.
        steps: of conjugate gradients.
    """

    stacks: tuple[StackReport, ...]
    steps: int


def describe_input(volume: Volume) -> InputReport:
    """Name a scan and hash its file, or the files of a DICOM series in the order of their names."""
    source = volume.source
    return InputReport(
        name=None if source is None else source.name,
        sha256=None if source is None else sha256(source, volume.files),
        shape=volume.shape,
        spacing=volume.spacing,
        slice_thickness=volume.slice_thickness,
        series=volume.series,
    )
