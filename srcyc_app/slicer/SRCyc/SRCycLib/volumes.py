"""Scans and results as MRML nodes: checked, written for the server, read from it, displayed alike."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import slicer
import vtk
from slicer.i18n import tr as _

from SRCycLib.processes import Problem

#: Attributes of a result; the first is on every result and on nothing else.
MADE_BY = "SRCyc.Software"
#: On every map, which it is.
MAP = "SRCyc.Map"
#: On every scan that came from a server: its address and the scan's id there.
OF_SERVER = "SRCyc.Server"
_MODEL = "SRCyc.Model"
_MODEL_SHA256 = "SRCyc.ModelSHA256"
_INPUT = "SRCyc.Input"
_NOTE = "SRCyc.Note"

#: Colours of an uncertainty map, the first that there is.
_COLOURS = ("vtkMRMLColorTableNodeFileInferno.txt", "vtkMRMLColorTableNodeIron")
#: Those of a map with two signs.
_TWO_SIDED = (
    "vtkMRMLColorTableNodeFileDivergingBlueRed.txt",
    "vtkMRMLColorTableNodeFileColdToHotRainbow.txt",
)
_BRIGHTEST = 99.0
#: Shares of the brightest below which an uncertainty map is transparent.
_TRANSPARENT = 0.05
#: Voxels that a percentile is taken of.
_ENOUGH = 1_000_000


class VolumeProblem(Problem):
    """A volume cannot be used."""


def check_input(node: Any) -> None:
    """Refuse what cannot be super-resolved, before it is sent anywhere.

    Args:
        node: of the scene, or None.

    Raises:
        VolumeProblem: says why, and what to do.
    """
    if node is None:
        raise VolumeProblem(_("No volume is chosen: load a scan and choose it as the input."))
    name = node.GetName() or _("the volume")
    if not node.IsA("vtkMRMLScalarVolumeNode") or node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise VolumeProblem(
            _("{name} is no scan but a label map or the like: choose a scan.").format(name=name)
        )
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise VolumeProblem(_("{name} has no voxels: load its file again.").format(name=name))
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise VolumeProblem(
            _("{name} has {count} values in each voxel: choose a volume with one (grey values).").format(
                name=name, count=components
            )
        )
    size = image.GetDimensions()
    if min(size) < 2:
        raise VolumeProblem(
            _("{name} is a single image ({size} voxels): choose a volume of several slices.").format(
                name=name, size=_product(size)
            )
        )
    matrix = _affine(node)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise VolumeProblem(
            _(
                "{name} has no place in space (its spacing or directions are void): load its file again."
            ).format(name=name)
        )


def check_output(node: Any, scan: Any) -> None:
    """Refuse to replace anything but a result.

    Raises:
        VolumeProblem: says why, and what to do.
    """
    if node is scan or node.GetAttribute(MADE_BY) is None:
        raise VolumeProblem(
            _(
                "{name} is no result of SRCyc and is not replaced: choose another one, or a new volume."
            ).format(name=node.GetName())
        )


def is_scan(node: Any) -> bool:
    """Tell whether a node is a volume that may be super-resolved: neither a result nor a map."""
    return bool(
        node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and node.GetAttribute(MADE_BY) is None
        and node.GetAttribute(MAP) is None
    )


def not_scans() -> list[str]:
    """Give the ids of the scene's results and maps."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node.GetID() for node in nodes if node.GetAttribute(MADE_BY) or node.GetAttribute(MAP)]


def likely_scan() -> Any | None:
    """Give the scan that the user most likely means: the one that Slicer shows, else the one loaded last."""
    scans = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        if is_scan(node) and not node.GetHideFromEditors()
    ]
    active = slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID()
    return next((node for node in scans if node.GetID() == active), scans[-1] if scans else None)


def size_of(node: Any) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Give voxels and spacing (mm) of a volume along its array's axes."""
    return tuple(node.GetImageData().GetDimensions()), tuple(node.GetSpacing())


def dicom_thickness(node: Any) -> float | None:
    """Give the slice thickness (mm) that Slicer's DICOM database knows of a volume; None: it does not know one."""
    uids = str(node.GetAttribute("DICOM.instanceUIDs") or "").split()
    # There is none before the DICOM module is set up, and it may be closed.
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None or not database.isOpen:
        return None
    try:
        (thickness,) = {float(database.instanceValue(uid, "0018,0050")) for uid in uids}
    except ValueError:  # not all have one, or not all the same
        return None
    return thickness if 0 < thickness < math.inf else None


def export(node: Any, path: Path) -> None:
    """Write a volume to a file, without a trace in the node: its own file, name and state stay.

    A transform above it is left out; it is above the result too. What DICOM says of the slices' thickness is written.

    Args:
        node: that has passed :func:`check_input`.
        path: ``.nrrd``; its folder exists.

    Raises:
        VolumeProblem: it cannot be written.
    """
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    # The way to the server is faster than the compression.
    storage.SetUseCompression(0)
    written = storage.WriteData(node)
    thickness = dicom_thickness(node)
    if written and thickness is not None:
        with contextlib.suppress(OSError):  # then it is too short
            _state_thickness(path, node.GetSpacing(), thickness)
    image = node.GetImageData()
    needed = image.GetNumberOfPoints() * image.GetScalarSize()
    # The writer may not hear of a disk that is full at the last block.
    if not written or not path.is_file() or path.stat().st_size < needed:
        raise VolumeProblem(
            _(
                "{name} cannot be written to {folder}: check that the disk has room for {megabytes:.0f} MB."
            ).format(name=node.GetName(), folder=path.parent, megabytes=needed / 1e6)
        )


def _state_thickness(path: Path, spacing: Sequence[float], thickness: float) -> None:
    """Write into an NRRD's header how thick the slices are: Slicer's writer has no word for it."""
    thick = max(range(3), key=lambda axis: spacing[axis])
    values = " ".join(f"{thickness:.9g}" if axis == thick else "NaN" for axis in range(3))
    plain = path.with_name(f"{path.name}.part")
    path.rename(plain)
    with plain.open("rb") as source, path.open("wb") as target:
        for line in iter(source.readline, b"\n"):
            target.write(line)
        target.write(f"thicknesses: {values}\n\n".encode())
        shutil.copyfileobj(source, target)
    plain.unlink()


def load(path: Path, name: str, scene: Any) -> Any:
    """Read a volume into the scene.

    The node keeps no connection to the file, which goes away: Slicer asks to save it.

    Args:
        path: a file, or the folder of one DICOM series.
        name: of the node; a number is added where another node has it.
        scene: where it belongs.

    Returns:
        the scalar volume node, with a display node.

    Raises:
        VolumeProblem: it cannot be read.
    """
    files = _series(path, name) if path.is_dir() else [str(path)]
    node = slicer.vtkMRMLScalarVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(files[0])
    if len(files) > 1:
        for file in files:
            storage.AddFileName(file)
    storage.SetSingleFile(len(files) == 1)
    if not Path(files[0]).is_file() or not storage.ReadData(node) or not node.GetImageData():
        raise VolumeProblem(
            _("{file} cannot be read as a volume: try once more, or load it by hand.").format(file=path.name)
        )
    node.SetName(name if scene.GetFirstNodeByName(name) is None else scene.GenerateUniqueName(name))
    added = scene.AddNode(node)
    added.CreateDefaultDisplayNodes()
    return added


def move(loaded: Any, node: Any) -> Any:
    """Put a volume that was just loaded into another node, which keeps its name and place; gives that node."""
    with slicer.util.NodeModify(node):
        node.SetAndObserveImageData(loaded.GetImageData())
        node.CopyOrientation(loaded)
    # Slicer asks to save it.
    node.StorableModified()
    loaded.GetScene().RemoveNode(loaded)
    return node


def adopt(result: Any, original: Any) -> None:
    """Show a result as its scan is shown, and put it where the scan is: transform, subject hierarchy.

    Args:
        result: scalar volume node.
        original: the scan.
    """
    theirs, ours = original.GetDisplayNode(), result.GetDisplayNode()
    if theirs is not None and ours is not None:
        with slicer.util.NodeModify(ours):
            ours.SetAndObserveColorNodeID(theirs.GetColorNodeID())
            # Also where the scan's are automatic: the same grey shall be the same value.
            ours.SetAutoWindowLevel(False)
            ours.SetWindowLevel(theirs.GetWindow(), theirs.GetLevel())
            ours.SetInterpolate(theirs.GetInterpolate())
    put_beside(result, original)


def note(result: Any, report: dict[str, Any]) -> None:
    """Write into a result what made it, so that it is saved with the scene.

    Args:
        result: scalar volume node.
        report: of the server.
    """
    model = report.get("model") or {}
    values = {
        MADE_BY: report.get("software") or "srcyc",
        _MODEL: model.get("name"),
        _MODEL_SHA256: model.get("sha256"),
        _INPUT: (report.get("input") or {}).get("name"),
        _NOTE: report.get("note"),
    }
    for key, value in values.items():
        if value:
            result.SetAttribute(key, str(value))


def describe(report: dict[str, Any]) -> str:
    """Give a report as a few lines of plain text; what it does not say is left out."""
    scan, result, model = (report.get(part) or {} for part in ("input", "result", "model"))
    consistency = report.get("consistency") or {}
    lines = []
    if scan.get("spacing") and result.get("spacing"):
        lines.append(
            _("{before} mm → {after} mm ({size} voxels)").format(
                before=_product(scan["spacing"]),
                after=_product(result["spacing"]),
                size=_product(result.get("shape") or ()),
            )
        )
    if model.get("name") and _is_number(report.get("seconds")):
        lines.append(
            _("Model {model}, {seconds:.1f} s on {device}").format(
                model=model["name"], seconds=report["seconds"], device=report.get("device", "?")
            )
        )
    lines += _about_slices(report.get("thickness") or {}, consistency)
    if report.get("note"):
        lines.append(str(report["note"]))
    return "\n".join(lines)


def _about_slices(thickness: dict[str, Any], consistency: dict[str, Any]) -> list[str]:
    """Say what the slices were taken for, what was corrected in them, and what was not kept of them."""
    lines = []
    said = {
        "stated": _("Slices {mm:.3g} mm thick, as stated"),
        "read": _("Slices {mm:.3g} mm thick, as the file says"),
        "estimated": _("Slices {mm:.3g} mm thick, estimated from the scan: {ratio:.3g} of their distance"),
        "assumed": _("Slices {mm:.3g} mm thick, assumed: {ratio:.3g} of their distance"),
    }.get(str(thickness.get("source")))
    if said and _is_number(thickness.get("millimetres")) and _is_number(thickness.get("ratio")):
        lines.append(said.format(mm=thickness["millimetres"], ratio=thickness["ratio"]))
    if consistency.get("slices_corrected") and _is_number(consistency.get("correction")):
        lines.append(_("Slices corrected by {share:.2g} %").format(share=100 * consistency["correction"]))
    elif consistency.get("slices_corrected") is False:
        lines.append(_("Slices not corrected"))
    if consistency.get("applied") is False and _is_number(consistency.get("residual")):
        words = _("Not kept to the scan: acquired again, the result differs from it by {share:.2g} %")
        lines.append(words.format(share=100 * consistency["residual"]))
    return lines


def uncertainty_display(node: Any) -> None:
    """Colour an uncertainty map so that it can lie over a scan: what is almost certain is transparent."""
    node.CreateDefaultDisplayNodes()
    display, values = node.GetDisplayNode(), slicer.util.arrayFromVolume(node)
    brightest = _brightest(values)
    with slicer.util.NodeModify(display):
        _colour(node, _COLOURS)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, brightest)
        display.SetAutoThreshold(False)
        display.SetThreshold(_TRANSPARENT * brightest, max(brightest, float(np.nanmax(values))))
        display.SetApplyThreshold(True)


def correction_display(node: Any) -> None:
    """Colour a map of what was added to the slices: nothing is in the middle of the colours."""
    node.CreateDefaultDisplayNodes()
    display, most = node.GetDisplayNode(), _brightest(np.abs(slicer.util.arrayFromVolume(node)))
    with slicer.util.NodeModify(display):
        _colour(node, _TWO_SIDED)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(-most, most)


def _brightest(values: np.ndarray) -> float:
    some = values.ravel()[:: max(1, values.size // _ENOUGH)]
    return float(np.nanpercentile(some, _BRIGHTEST)) or float(np.nanmax(values)) or 1.0


def _colour(node: Any, tables: tuple[str, ...]) -> None:
    scene = node.GetScene()
    colours = next((each for each in tables if scene.GetNodeByID(each) is not None), None)
    if colours:
        node.GetDisplayNode().SetAndObserveColorNodeID(colours)


def result_name(original: Any) -> str:
    """Name a result after its scan."""
    return f"{original.GetName() or _('scan')} (SRCyc)"


def _series(folder: Path, name: str) -> list[str]:
    """Give the files of a DICOM series in the order of their places: the storage node takes them as they come.

    Raises:
        VolumeProblem: not one series, or more than that.
    """
    count = sum(file.is_file() for file in folder.iterdir())
    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)) if count else ()
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]) if series else ()
    if not files or len(files) != count:
        raise VolumeProblem(
            _(
                "{name}: its {count} files in {folder} are not one DICOM series: load it with Slicer's DICOM module."
            ).format(name=name, count=count, folder=folder.name)
        )
    return list(files)


def _affine(node: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))


def put_beside(result: Any, original: Any) -> None:
    """Put a result or map under its scan's transform, and beside it in the subject hierarchy, if there is one."""
    result.SetAndObserveTransformNodeID(original.GetTransformNodeID())
    scene = result.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene else None
    if hierarchy is None:
        return
    own, its = hierarchy.GetItemByDataNode(result), hierarchy.GetItemByDataNode(original)
    void = hierarchy.GetInvalidItemID()
    if void not in (own, its):
        hierarchy.SetItemParent(own, hierarchy.GetItemParent(its))


def _product(values: Any) -> str:
    return " × ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
