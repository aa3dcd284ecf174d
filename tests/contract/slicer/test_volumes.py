"""Scans and results in a real MRML scene: refused, exported, loaded, displayed; no Slicer application is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from srcyc.volumes.volume import Volume, read_volume
from SRCycLib.client import Client

CommandLine = Callable[..., Any]


@pytest.fixture
def volumes(library: Callable[[str], ModuleType]) -> ModuleType:
    """The module under test."""
    return library("volumes")


def make(
    scene: Any,
    data: np.ndarray | None = None,
    kind: str = "vtkMRMLScalarVolumeNode",
    name: str = "scan",
    affine: np.ndarray | None = None,
) -> Any:
    """Add a volume node; ``data`` is ``(I, J, K)`` or ``(I, J, K, components)``."""
    node = scene.AddNewNodeByClass(kind, name)
    if data is not None:
        image = vtk.vtkImageData()
        image.SetDimensions(*data.shape[:3])
        flat = data.reshape(*data.shape[:3], -1).transpose(2, 1, 0, 3).reshape(np.prod(data.shape[:3]), -1)
        image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(flat), deep=True))
        node.SetAndObserveImageData(image)
    if affine is not None:
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(affine.ravel())
        node.SetIJKToRASMatrix(matrix)
    return node


def voxels(node: Any) -> np.ndarray:
    """Give a node's voxels as ``(I, J, K)``."""
    image = node.GetImageData()
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    return flat.reshape(image.GetDimensions()[::-1]).transpose(2, 1, 0)


def affine_of(node: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(i, k) for k in range(4)] for i in range(4)])


def right_handed(volume: Volume) -> Volume:
    """Give a volume as Slicer has it: of a left-handed grid, it turns the order of the slices round."""
    if np.linalg.det(volume.affine[:3, :3]) > 0:
        return volume
    affine = volume.affine.copy()
    affine[:3, 3] += (volume.shape[2] - 1) * affine[:3, 2]
    affine[:3, 2] *= -1
    return Volume(volume.data[..., ::-1], affine)


def same(node: Any, volume: Volume) -> None:
    volume = right_handed(volume)
    np.testing.assert_array_equal(voxels(node), volume.data[0])
    np.testing.assert_allclose(affine_of(node), volume.affine, atol=1e-6)


# -- what cannot be used --------------------------------------------------------------------------------------------

CUBE = np.zeros((4, 5, 6), np.int16)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nothing", "No volume is chosen"),
        ("no voxels", "has no voxels"),
        ("one slice", "4 × 5 × 1"),
        ("colours", "3 values"),
        ("label map", "label map"),
        ("model", "label map or the like"),
        ("flat", "no place in space"),
        ("nan", "no place in space"),
    ],
)
def test_what_cannot_be_used(what: str, says: str, scene: Any, volumes: ModuleType) -> None:
    nodes: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "no voxels": lambda: make(scene),
        "one slice": lambda: make(scene, CUBE[:, :, :1]),
        "colours": lambda: make(scene, np.zeros((4, 5, 6, 3), np.uint8), "vtkMRMLVectorVolumeNode"),
        "label map": lambda: make(scene, CUBE, "vtkMRMLLabelMapVolumeNode"),
        "model": lambda: scene.AddNewNodeByClass("vtkMRMLModelNode", "scan"),
        "flat": lambda: make(scene, CUBE, affine=np.diag([1.0, 1.0, 0.0, 1.0])),
        "nan": lambda: make(scene, CUBE, affine=np.diag([1.0, np.nan, 1.0, 1.0])),
    }
    with pytest.raises(volumes.VolumeProblem) as raised:
        volumes.check_input(nodes[what]())
    sentence = str(raised.value)
    assert says in sentence
    assert sentence.endswith(".")
    assert what == "nothing" or "scan" in sentence, "it names the volume"


def test_what_can_be_used(scene: Any, volumes: ModuleType) -> None:
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        volumes.check_input(make(scene, CUBE.astype(dtype)))


# -- out and in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nifti", "nrrd", "mha", "thin"])
def test_out_and_in_again(name: str, scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType) -> None:
    original = read_volume(getattr(scans, name))
    node = volumes.load(getattr(scans, name), "scan", scene)
    same(node, original)
    assert node.GetName() == "scan"
    assert node.GetDisplayNode() is not None
    assert node.GetStorageNode() is None, "the file goes away"
    assert node.GetModifiedSinceRead(), "Slicer asks to save it"

    before = (node.GetMTime(), node.GetModifiedSinceRead(), scene.GetNumberOfNodes())
    volumes.export(node, tmp_path / "out.nrrd")
    assert (node.GetMTime(), node.GetModifiedSinceRead(), scene.GetNumberOfNodes()) == before
    assert node.GetStorageNode() is None
    written, expected = read_volume(tmp_path / "out.nrrd"), right_handed(original)
    np.testing.assert_array_equal(written.data, expected.data)
    np.testing.assert_allclose(written.affine, expected.affine, atol=1e-7)
    assert written.stored_dtype == original.stored_dtype
    assert b"encoding: raw" in (tmp_path / "out.nrrd").read_bytes()[:1000]


def test_the_storage_node_of_a_scan_is_left_alone(
    scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType
) -> None:
    node = volumes.load(scans.nrrd, "scan", scene)
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(scans.nrrd))
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.StorableModified()
    volumes.export(node, tmp_path / "out.nrrd")
    assert node.GetStorageNode().GetFileName() == str(scans.nrrd)
    assert node.GetModifiedSinceRead(), "what the user has changed is still to be saved"


def test_a_transform_is_not_exported(scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType) -> None:
    node = volumes.load(scans.nrrd, "scan", scene)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 50.0)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    volumes.export(node, tmp_path / "out.nrrd")
    np.testing.assert_allclose(read_volume(tmp_path / "out.nrrd").affine, affine_of(node), atol=1e-7)


def test_a_dicom_series(scans: Any, scene: Any, volumes: ModuleType) -> None:
    same(volumes.load(scans.series, "series", scene), read_volume(scans.series))


def test_a_dicom_series_as_the_client_unpacks_it(
    srcyc_server: Any, scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType
) -> None:
    answer = Client(srcyc_server.url).download("series", tmp_path)
    same(volumes.load(Path(answer["path"]), "series", scene), read_volume(scans.series))


def test_the_names_of_dicom_files_mean_nothing(
    scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType
) -> None:
    files = sorted(scans.series.iterdir())
    for number, index in enumerate(np.random.default_rng(0).permutation(len(files))):
        (tmp_path / f"{number:05d}.dcm").write_bytes(files[index].read_bytes())
    same(volumes.load(tmp_path, "series", scene), read_volume(scans.series))


def test_dicom_files_that_are_not_one_series(
    scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType
) -> None:
    for number, file in enumerate(sorted(scans.series.iterdir())):
        data = pydicom.dcmread(file)
        data.SeriesInstanceUID = f"{data.SeriesInstanceUID[:50]}.{number % 2}"
        data.save_as(tmp_path / file.name)
    with pytest.raises(volumes.VolumeProblem, match="DICOM module"):
        volumes.load(tmp_path, "two", scene)
    assert scene.GetFirstNodeByName("two") is None


@pytest.mark.parametrize("what", ["missing", "damaged", "empty", "no folder"])
def test_what_cannot_be_read(what: str, scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType) -> None:
    path = tmp_path / "scan.nrrd"
    if what == "damaged":
        path.write_bytes(scans.nrrd.read_bytes()[:100])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "no folder":
        path.mkdir()
    before = scene.GetNumberOfNodes()
    with pytest.raises(volumes.VolumeProblem, match=r"scan\.nrrd"):
        volumes.load(path, "scan", scene)
    assert scene.GetNumberOfNodes() == before


def test_what_cannot_be_written(scans: Any, scene: Any, tmp_path: Path, volumes: ModuleType) -> None:
    node = volumes.load(scans.nrrd, "scan", scene)
    with pytest.raises(volumes.VolumeProblem, match="disk"):
        volumes.export(node, scans.nrrd / "below a file" / "scan.nrrd")


def test_a_full_disk(
    scene: Any, tmp_path: Path, volumes: ModuleType, file_size_limit: Callable[[int], Any]
) -> None:
    node = make(scene, np.ones((64, 64, 64), np.float32))
    with file_size_limit(100_000), pytest.raises(volumes.VolumeProblem, match="disk"):
        volumes.export(node, tmp_path / "scan.nrrd")


def test_names_are_unique(scans: Any, scene: Any, volumes: ModuleType) -> None:
    names = [volumes.load(scans.nrrd, "scan", scene).GetName() for _ in range(3)]
    assert names[0] == "scan"
    assert len(set(names)) == 3
    scene.Clear(True)
    assert volumes.load(scans.nrrd, "scan", scene).GetName() == "scan"


# -- the result is what the command line writes ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nrrd", "nifti", "series"])
def test_the_result_in_the_scene_is_the_file_of_the_command_line(
    name: str,
    scans: Any,
    scene: Any,
    tmp_path: Path,
    volumes: ModuleType,
    srcyc_server: Any,
    command_line: CommandLine,
) -> None:
    """Oblique floats, int16, an oblique DICOM series: from the scene to the server and back into the scene."""
    scan = getattr(scans, name)
    original = volumes.load(scan, "scan", scene)
    volumes.check_input(original)
    exported = tmp_path / "scan.nrrd"
    volumes.export(original, exported)
    (tmp_path / "result").mkdir()
    # Of the scan as it lies on the disk.
    expected, sidecar = command_line(scan)
    # Slicer's volumes do not know what a DICOM header says of the slices' thickness: it is stated.
    thickness = sidecar["thickness"]["millimetres"] if sidecar["thickness"]["source"] == "read" else None
    params = {"weights": "tiny", "device": "cpu", "slice_thickness": thickness}
    answer = Client(srcyc_server.url).infer(exported, tmp_path / "result", params, lambda *told: None)
    result = volumes.load(Path(answer["volume"]), volumes.result_name(original), scene)

    # Of the very file that was sent: the same, bit by bit.
    stated = () if thickness is None else ("--slice-thickness", str(thickness))
    same(result, command_line(exported, *stated)[0])
    # NRRD writes its directions as text, rounded in the last place.
    expected = right_handed(expected)
    np.testing.assert_allclose(affine_of(result), expected.affine, atol=1e-5)
    span = float(np.ptp(expected.data))
    np.testing.assert_allclose(voxels(result), expected.data[0], atol=1e-4 * span)
    assert result.GetName() == "scan (SRCyc)"
    assert list(result.GetImageData().GetDimensions()) == sidecar["result"]["shape"]

    # The same field of view: the outer corners of both lie at the same places.
    first, last = np.full(3, -0.5), np.array(original.GetImageData().GetDimensions()) - 0.5
    fine = np.array(result.GetImageData().GetDimensions()) - 0.5
    for theirs, ours in ((first, first), (last, fine)):
        place = affine_of(original) @ [*theirs, 1.0]
        np.testing.assert_allclose(affine_of(result) @ [*ours, 1.0], place, atol=1e-3)


# -- how it is shown ------------------------------------------------------------------------------------------------


def test_a_result_takes_over_how_its_scan_is_shown(scans: Any, scene: Any, volumes: ModuleType) -> None:
    original = volumes.load(scans.nrrd, "scan", scene)
    colours = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "colours")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    display = original.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(321.0, 123.0)
    display.SetInterpolate(False)
    display.SetAndObserveColorNodeID(colours.GetID())
    original.SetAndObserveTransformNodeID(transform.GetID())
    result = volumes.load(scans.thin, "result", scene)
    volumes.adopt(result, original)
    shown = result.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel(), bool(shown.GetAutoWindowLevel())) == (321.0, 123.0, False)
    assert not shown.GetInterpolate()
    assert shown.GetColorNodeID() == colours.GetID()
    assert result.GetTransformNodeID() == transform.GetID()
    assert shown is not display


def test_the_same_grey_is_the_same_value_where_it_is_automatic(
    scans: Any, scene: Any, volumes: ModuleType
) -> None:
    original = volumes.load(scans.nrrd, "scan", scene)
    result = volumes.load(scans.steep, "result", scene)
    volumes.adopt(result, original)
    theirs, ours = original.GetDisplayNode(), result.GetDisplayNode()
    assert theirs.GetAutoWindowLevel()
    assert (ours.GetWindow(), ours.GetLevel()) == (theirs.GetWindow(), theirs.GetLevel())
    assert not ours.GetAutoWindowLevel()


def test_a_scan_that_was_never_shown(scans: Any, scene: Any, volumes: ModuleType) -> None:
    result = volumes.load(scans.thin, "result", scene)
    volumes.adopt(result, make(scene, CUBE))
    assert result.GetDisplayNode().GetAutoWindowLevel()


def test_a_result_lies_beside_its_scan_in_the_hierarchy(scans: Any, scene: Any, volumes: ModuleType) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    original = volumes.load(scans.nrrd, "scan", scene)
    result = volumes.load(scans.thin, "result", scene)
    for node, parent in ((original, study), (result, hierarchy.GetSceneItemID())):
        hierarchy.CreateItem(parent, node)
    volumes.adopt(result, original)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(result)) == study


def test_an_uncertainty_map(scene: Any, volumes: ModuleType) -> None:
    rng = np.random.default_rng(0)
    node = make(scene, rng.exponential(2.0, (20, 21, 22)).astype(np.float32))
    inferno = scene.AddNode(slicer.vtkMRMLColorTableNode())
    volumes.uncertainty_display(node)
    display = node.GetDisplayNode()
    brightest = np.percentile(voxels(node), 99)
    assert display.GetWindowLevelMin() == 0.0
    assert display.GetWindowLevelMax() == pytest.approx(brightest, rel=0.02)
    assert display.GetApplyThreshold()
    assert 0 < display.GetLowerThreshold() < 0.2 * brightest
    assert display.GetUpperThreshold() >= voxels(node).max()
    assert display.GetColorNodeID() != inferno.GetID()


@pytest.mark.parametrize("identifier", ["vtkMRMLColorTableNodeFileInferno.txt", "vtkMRMLColorTableNodeIron"])
def test_the_colours_of_an_uncertainty_map(identifier: str, scene: Any, volumes: ModuleType) -> None:
    colours = slicer.vtkMRMLColorTableNode()
    colours.SetSingletonTag(identifier.replace("vtkMRMLColorTableNode", ""))
    scene.AddNode(colours)
    assert colours.GetID() == identifier
    node = make(scene, np.ones((4, 4, 4), np.float32))
    volumes.uncertainty_display(node)
    assert node.GetDisplayNode().GetColorNodeID() == identifier


def test_a_correction_map(scene: Any, volumes: ModuleType) -> None:
    values = np.random.default_rng(0).normal(0.5, 2.0, (20, 21, 22)).astype(np.float32)
    node = make(scene, values)
    colours = slicer.vtkMRMLColorTableNode()
    colours.SetSingletonTag("FileDivergingBlueRed.txt")
    scene.AddNode(colours)
    volumes.correction_display(node)
    display = node.GetDisplayNode()
    assert display.GetColorNodeID() == colours.GetID()
    # Nothing is in the middle of the colours, and both signs are seen.
    assert display.GetWindowLevelMin() == -display.GetWindowLevelMax()
    assert display.GetWindowLevelMax() == pytest.approx(np.percentile(np.abs(values), 99), rel=0.02)
    assert not display.GetApplyThreshold()


def test_nothing_corrected(scene: Any, volumes: ModuleType) -> None:
    node = make(scene, np.zeros((4, 4, 4), np.float32))
    volumes.correction_display(node)
    assert node.GetDisplayNode().GetWindow() > 0


def test_nothing_uncertain(scene: Any, volumes: ModuleType) -> None:
    node = make(scene, np.zeros((4, 4, 4), np.float32))
    volumes.uncertainty_display(node)
    display = node.GetDisplayNode()
    assert display.GetWindow() > 0
    assert display.GetLowerThreshold() > 0, "all of it is transparent"


# -- what is told of it ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(scans: Any, command_line: CommandLine) -> dict[str, Any]:
    return dict(command_line(scans.nrrd)[1])


def test_what_is_written_into_a_result(
    report: dict[str, Any], scene: Any, tmp_path: Path, volumes: ModuleType
) -> None:
    result = make(scene, CUBE, name="result")
    assert result.GetAttribute(volumes.MADE_BY) is None
    volumes.note(result, report)
    assert result.GetAttribute(volumes.MADE_BY) == report["software"]
    assert result.GetAttribute("SRCyc.Model") == "tiny"
    assert result.GetAttribute("SRCyc.ModelSHA256") == report["model"]["sha256"]
    assert result.GetAttribute("SRCyc.Input") == "oblique.nrrd"
    assert "diagnostic" in result.GetAttribute("SRCyc.Note")
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Commit()
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    again.Import()
    assert again.GetFirstNodeByName("result").GetAttribute("SRCyc.Model") == "tiny"
    volumes.note(make(scene, CUBE), {})


def test_a_report_in_words(report: dict[str, Any], volumes: ModuleType) -> None:
    text = volumes.describe({**report, "warnings": ["the scan is noisy."]})
    lines = text.splitlines()
    assert lines[0] == "0.9 × 0.9 × 3.6 mm → 0.9 × 0.9 × 0.9 mm (24 × 26 × 32 voxels)"
    assert lines[1].startswith("Model tiny, ")
    assert lines[1].endswith("s on cpu")
    assert lines[2] == "Slices 2.88 mm thick, assumed: 0.8 of their distance"
    assert lines[3] == f"Slices corrected by {100 * report['consistency']['correction']:.2g} %"
    assert "diagnostic" in lines[4]
    assert "noisy" not in text, "warnings stand apart, in colour"
    assert "<" not in text


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (
            {"thickness": {"millimetres": 4.0, "ratio": 0.8, "source": "stated"}},
            "Slices 4 mm thick, as stated",
        ),
        (
            {"thickness": {"millimetres": 4.5, "ratio": 0.9, "source": "read"}},
            "Slices 4.5 mm thick, as the file says",
        ),
        (
            {"thickness": {"millimetres": 3.6, "ratio": 0.72, "source": "estimated"}},
            "Slices 3.6 mm thick, estimated from the scan: 0.72 of their distance",
        ),
        ({"consistency": {"applied": True, "slices_corrected": False}}, "Slices not corrected"),
        (
            {"consistency": {"applied": False, "residual": 0.0312}},
            "Not kept to the scan: acquired again, the result differs from it by 3.1 %",
        ),
        ({"consistency": {"applied": True, "residual": 0.0312}}, ""),
        ({"consistency": {"before": 0.1, "after": 0.01}}, ""),
        ({"thickness": {"source": "dreamt", "millimetres": 1, "ratio": 1}}, ""),
    ],
)
def test_what_is_said_of_slices(report: dict[str, Any], says: str, volumes: ModuleType) -> None:
    assert volumes.describe(report) == says


@pytest.mark.parametrize(
    "report", [{}, {"model": None}, {"input": {"spacing": None}}, json.loads('{"seconds": null}')]
)
def test_a_report_that_says_little(report: dict[str, Any], volumes: ModuleType) -> None:
    assert volumes.describe(report) == ""


def test_the_name_of_a_result(scene: Any, volumes: ModuleType) -> None:
    assert volumes.result_name(make(scene, name="T1")) == "T1 (SRCyc)"
