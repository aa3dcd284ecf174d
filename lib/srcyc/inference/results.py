"""What a result is written as: the one writer of volumes, their maps and their sidecars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srcyc.documents import write_json
from srcyc.files import publish, remove_unfinished, staging
from srcyc.inference.provenance import origin_of
from srcyc.inference.report import CombinationReport
from srcyc.volumes.dicom.derived import require_free, write_dicom_series
from srcyc.volumes.dicom.source import DicomSource
from srcyc.volumes.formats.raw import Origin, Scaling
from srcyc.volumes.image_files import can_scale, is_written, volume_suffix
from srcyc.volumes.labels import resample_labels
from srcyc.volumes.volume import Volume, volume_stem, write_volume

if TYPE_CHECKING:
    from srcyc.inference.combine import Combination
    from srcyc.inference.super_resolver import SuperResolution

SIDECAR_SUFFIX, PREVIEW_SUFFIX = ".json", ".png"

#: Maps that a result may have (attributes of :class:`SuperResolution`), and the options that ask for them.
MAPS = {"uncertainty": "uncertainty", "correction": "correction_map"}

#: What a label map brought to a result's grid is called beside it.
LABELS = "labels"

#: Stands for the scan's own voxel type.
INPUT_TYPE = "input"


@dataclass(frozen=True)
class Place:
    """Where a result goes, and under which names what belongs to it lies beside it.

    Attributes:
        volume: path of the volume; its suffix decides the format, of the maps too. Without one it is the folder of a
            DICOM series.
    """

    volume: Path

    @property
    def is_series(self) -> bool:
        """Whether the volume is a DICOM series."""
        return volume_suffix(self.volume) is None

    @property
    def sidecar(self) -> Path:
        """How the result was made."""
        return self.beside(SIDECAR_SUFFIX)

    @property
    def preview(self) -> Path:
        """A picture."""
        return self.beside(PREVIEW_SUFFIX)

    def map(self, name: str) -> Path:
        """One of :data:`MAPS`, or the labels: beside a DICOM series these are NIfTI."""
        stem = volume_stem(self.volume)
        suffix = ".nii.gz" if self.is_series and name == LABELS else self.volume.name[len(stem) :]
        return self.beside(f"_{name}{suffix}")

    def told(self) -> dict[str, Any]:
        """What the sidecar says besides the report, because of where the result goes."""
        return {}

    def tidy(self) -> None:
        """Remove what a process that was killed left there of a result; nobody else may be writing it."""
        remove_unfinished(self.volume.parent, self.volume.name)

    def beside(self, ending: str) -> Path:
        """Give the path that replaces the volume's suffix by ``ending``."""
        return self.volume.with_name(volume_stem(self.volume) + ending)


@dataclass(frozen=True)
class Dicom:
    """How a DICOM series is written: see :func:`srcyc.volumes.dicom.derived.write_dicom_series`.

    Attributes:
        source: headers of the scan, if its files may be gone by then.
        stable: the same result has the same UIDs each time.
        multi_frame: one enhanced image instead of many classic ones.
    """

    source: DicomSource | None = None
    stable: bool = False
    multi_frame: bool = False


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        volume: its path.
        maps: paths by the names of :data:`MAPS`.
        sidecar: what the sidecar holds.
        labels: path of the label map on its grid, if there is one.
    """

    volume: Path
    maps: dict[str, Path]
    sidecar: dict[str, Any]
    labels: Path | None = None


def maps_of(result: SuperResolution | Combination) -> dict[str, Volume]:
    """Give the maps that a result has, by name."""
    found = {name: getattr(result, name) for name in MAPS}
    return {name: volume for name, volume in found.items() if volume is not None}


def write_result(
    result: SuperResolution | Combination,
    scan: Volume,
    path: Path | Place,
    *,
    dtype: str = "float32",
    sidecar: bool = True,
    private: bool = False,
    labels: Volume | None = None,
    more: Mapping[str, bool] | None = None,
    preview: bool = False,
    dicom: Dicom | None = None,
) -> Written:
    """Write a result and all that belongs to it; the files appear together and complete, or not at all.

    Args:
        result: to be written.
        scan: it was made from.
        path: of the volume, in a folder that exists, or more about its place; what is there is replaced. A path
            without a volume's suffix is that of a DICOM series, which needs a scan that is one.
        dtype: voxel type, or ``input`` for the scan's if that is an integer (with the scaling of its header, where
            the format can hold one); maps are float32. DICOM: 16 bits with a rescale, or with ``input`` without.
        sidecar: write it too.
        private: only this user may read the files.
        labels: label map of the scan, written on the result's grid too.
        more: options of whoever asked for it, told among the others.
        preview: draw it too, as it is written, beside the scan interpolated.
        dicom: how a DICOM series is written.

    Raises:
        OutputError: see :func:`srcyc.volumes.volume.write_volume` and
            :func:`srcyc.volumes.dicom.derived.write_dicom_series`.
        VolumeError: labels that are none, or of something else.
    """
    final = path if isinstance(path, Place) else Place(path)
    path, maps = final.volume, maps_of(result)
    document = result.report.model_dump(mode="json") | final.told()
    document["options"] |= more or {}
    as_input = dtype == INPUT_TYPE
    volume, kind, scaling = result.volume, np.dtype(np.float32 if as_input else dtype), None
    warnings: list[str] = []
    if as_input and not final.is_series:
        kind, scaling, warnings = _own_type(scan, path)
    if kind.kind in "iu":
        volume, outside = fit_type(volume, kind, scaling)
        warnings += outside
    else:
        kind = np.dtype(np.float32)
    document["warnings"] += warnings
    document["output"] = path.name
    document |= {name: final.map(name).name for name in maps}
    if labels is not None:
        document[LABELS] = final.map(LABELS).name
    with staging(path.parent, path.name) as folder:
        staged = replace(final, volume=folder / path.name)
        if preview:
            _draw(result, scan, volume, staged.preview)
        if labels is not None:
            _write_labels(labels, result.volume, staged.map(LABELS), origin_of(result.report, LABELS))
        if final.is_series:
            document |= _write_series(result, scan, final, staged, dicom or Dicom(), whole=as_input)
            last = staged.volume
        else:
            for name, values in maps.items():
                write_volume(values, staged.map(name), origin=origin_of(result.report, name))
            document["output_type"] = str(kind)
            last = write_volume(
                volume, staged.volume, dtype=kind, scaling=scaling, origin=origin_of(result.report)
            )
        first = []
        if sidecar:
            first.append(write_json(staged.sidecar, document))
        # The volume goes last; a .raw has to be there before the .mhd that names it.
        others = sorted(file for file in folder.iterdir() if file not in (*first, last))
        if private:
            _keep_private([*first, *others, last])
        publish([*first, *others, last], path.parent)
    paths = {name: final.map(name) for name in maps}
    return Written(path, paths, document, None if labels is None else final.map(LABELS))


def _draw(result: SuperResolution | Combination, scan: Volume, written: Volume, path: Path) -> None:
    from srcyc.evaluation.figure import preview_figure

    report = result.report
    headline = f"{report.input.name or 'volume'}, super-resolved by {report.model.name}"
    if isinstance(report, CombinationReport):
        headline = f"{len(report.stacks)} stacks combined, each super-resolved by {report.model.name}"
    preview_figure(path, scan, written, headline=headline)


def _write_series(
    result: SuperResolution | Combination,
    scan: Volume,
    final: Place,
    staged: Place,
    dicom: Dicom,
    *,
    whole: bool,
) -> dict[str, Any]:
    """Write the volume and its maps as DICOM series, and tell which they are.

    Raises:
        OutputError: see :func:`srcyc.volumes.dicom.derived.write_dicom_series`.
    """
    source = dicom.source or DicomSource.of(scan)
    told: dict[str, Any] = {}
    for name, values in {"volume": result.volume, **maps_of(result)}.items():
        where = final.volume if name == "volume" else final.map(name)
        require_free(where, overwrite=True)
        written = write_dicom_series(
            values,
            staged.volume.with_name(where.name),
            source,
            origin=origin_of(result.report, name),
            stable=dicom.stable,
            multi_frame=dicom.multi_frame,
            whole=whole and name == "volume",
        )
        told[name] = {"study": written.study, "series": written.series, "instances": len(written.files)}
    return {"output_type": "whole numbers of 16 bits" if whole else "uint16, rescaled", "dicom": told}


def _keep_private(paths: Sequence[Path]) -> None:
    for path in paths:
        for part in (path, *path.rglob("*")):
            part.chmod(0o700 if part.is_dir() else 0o600)


def _write_labels(labels: Volume, result: Volume, path: Path, origin: Origin) -> None:
    """Write a label map on a result's grid, in its own type, or the least that holds it and that the format has."""
    here = resample_labels(labels, result.grid)
    kinds = [labels.stored_dtype, *(np.dtype(kind) for kind in ("uint8", "int16", "int32"))]
    low, high = float(here.data.min()), float(here.data.max())
    kind = next(
        kind
        for kind in (*kinds, np.dtype(np.float32))
        if kind == np.float32
        or (
            kind.kind in "iu"
            and np.iinfo(kind).min <= low
            and high <= np.iinfo(kind).max
            and is_written(path, kind)
        )
    )
    write_volume(replace(result, data=here.data), path, dtype=kind, origin=origin)


def _own_type(scan: Volume, path: Path) -> tuple[np.dtype[Any], Scaling | None, list[str]]:
    """Give the type and the scaling that a scan's file stores, and why a result cannot have them if it cannot."""
    kind = scan.stored_dtype
    if kind.kind in "iu" or (kind == np.float32 and scan.scaling is None):
        return kind, None, []
    if scan.scaling is None:
        why = f"its voxels are {kind}, no integers"
    elif can_scale(path):
        return scan.scaling.dtype, scan.scaling, []
    else:
        why = f"{path.name} cannot hold {scan.scaling.dtype} voxels that a header scales; NIfTI can"
    return np.dtype(np.float32), None, [f"the scan's type is not kept, float32 is written: {why}."]


def fit_type(
    volume: Volume, dtype: np.dtype[Any], scaling: Scaling | None = None
) -> tuple[Volume, list[str]]:
    """Bring voxels into the range of an integer type, and tell how many were outside.

    Args:
        volume: to be written.
        dtype: of the stored integers.
        scaling: of these; None: they are the values themselves.

    Returns:
        the volume with its values limited to the type's range, and a warning if any was outside.
    """
    limits = np.iinfo(dtype)
    data = volume.data if scaling is None else (volume.data - scaling.intercept) / scaling.slope
    rounded = np.rint(data)
    outside = int(np.count_nonzero((rounded < limits.min) | (rounded > limits.max)))
    if not outside:
        return volume, []
    low, high = float(volume.data.min()), float(volume.data.max())
    # The largest float32 inside the range: 2**31 - 1 itself would be rounded up, out of it.
    top = np.float32(limits.max)
    if int(top) > limits.max:
        top = np.nextafter(top, np.float32(0))
    data = np.clip(data, np.float32(limits.min), top)
    ends = np.array([limits.min, limits.max], np.float64)
    if scaling is not None:
        data = data * np.float32(scaling.slope) + np.float32(scaling.intercept)
        ends = np.sort(ends * scaling.slope + scaling.intercept)
    scaled = "" if scaling is None else ", as its header scales it,"
    warning = (
        f"{outside} of {volume.data.size} voxels ({low:g} to {high:g}) lie outside {dtype}{scaled} "
        f"({ends[0]:.10g} to {ends[1]:.10g}) and were set to its limits; write float32 to keep them."
    )
    return replace(volume, data=data), [warning]
