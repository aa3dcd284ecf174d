"""Apply and Cancel with a real server: what comes back, and what happens when something gets in between."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import save_head
from srcyc.models.model_file import DEFAULT_MODEL
from srcyc.volumes.volume import Volume


def affine_of(node: Any) -> np.ndarray:
    """Give a volume node's matrix from voxels to RAS."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))


def composites(scene: Any) -> dict[str, Any]:
    """Give the composite nodes by the names of their views."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")
    nodes = [scene.GetNthNodeByClass(row, "vtkMRMLSliceCompositeNode") for row in range(count)]
    return {node.GetLayoutName(): node for node in nodes}


def as_slicer_has_it(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Give voxels and matrix as Slicer has them: it turns the slices of left-handed volumes round."""
    data, affine = volume.data[0], volume.affine
    if np.linalg.det(affine[:3, :3]) < 0:
        turned = affine.copy()
        turned[:3, 2] *= -1
        turned[:3, 3] += (data.shape[2] - 1) * affine[:3, 2]
        data, affine = data[:, :, ::-1], turned
    return data, affine


@pytest.mark.parametrize("name", ["head.nii.gz", "oblique.nrrd"])
def test_the_result_is_what_the_command_line_writes(
    connected: Any, scans: Any, command_line: Any, name: str
) -> None:
    import slicer

    scan = connected.load(scans.folder / name, "scan")
    connected.make_it_short()
    result = connected.apply()
    expected, affine = as_slicer_has_it(command_line(scans.folder / name)[0])
    assert result.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert result.GetName() == "scan (SRCyc)"
    np.testing.assert_allclose(affine_of(result), affine, atol=1e-5)
    found = slicer.util.arrayFromVolume(result).transpose(2, 1, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert connected.ui.resultSelector.currentNode() is result
    assert result.GetStorageNode() is None, "its file is temporary"
    assert result.GetNodeReference("SRCyc.Original") is scan
    connected.is_ready()


def test_the_result_is_shown_as_the_scan_is(connected: Any, scans: Any) -> None:
    import slicer

    scan = connected.load(scans.nrrd)
    display = scan.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(321.0, 123.0)
    turn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turn")
    scan.SetAndObserveTransformNodeID(turn.GetID())
    connected.make_it_short()
    result = connected.apply()
    shown = result.GetDisplayNode()
    assert not shown.GetAutoWindowLevel()
    assert (shown.GetWindow(), shown.GetLevel()) == (321.0, 123.0)
    assert result.GetTransformNodeID() == turn.GetID()


def test_scan_and_result_side_by_side_and_faded(connected: Any, tmp_path: Path) -> None:
    import slicer

    # Wider than high from each side, as heads are: fitted too early, it is cropped.
    scan = connected.load(save_head(tmp_path / "wide.nii.gz", (28, 40, 6)))
    connected.make_it_short()
    layouts, before = slicer.app.layoutManager(), slicer.app.layoutManager().layout
    result = connected.apply()
    views = layouts.layoutLogic().GetViewNodes()
    nodes = [views.GetItemAsObject(row) for row in range(views.GetNumberOfItems())]
    names = [node.GetLayoutName() for node in nodes]
    shown = composites(slicer.mrmlScene)
    # Where the slices of an axial scan are seen from the side, first.
    assert [node.GetOrientation() for node in nodes] == 2 * ["Sagittal", "Coronal", "Axial"]
    backgrounds = [shown[name].GetBackgroundVolumeID() for name in names]
    assert backgrounds == 3 * [scan.GetID()] + 3 * [result.GetID()]
    assert all(shown[name].GetLinkedControl() for name in names)

    connected.settled()
    for node in nodes:
        # Qt has given the views their sizes only after the module had asked for the layout.
        assert node.GetDimensions()[:2] == (400, 350)
        assert all_is_seen(node, scan)
    for upper, lower in zip(nodes[:3], nodes[3:], strict=True):
        for row in range(3):
            assert upper.GetSliceToRAS().GetElement(row, 3) == lower.GetSliceToRAS().GetElement(row, 3)
        assert upper.GetFieldOfView() == pytest.approx(lower.GetFieldOfView())

    connected.click(connected.ui.fadeButton)
    connected.settled()
    for name in names[:3]:
        assert shown[name].GetBackgroundVolumeID() == scan.GetID()
        assert shown[name].GetForegroundVolumeID() == result.GetID()
        assert all_is_seen(layouts.sliceWidget(name).mrmlSliceNode(), scan)
    nodes[0].SetFieldOfView(30.0, 40.0, 1.0)
    connected.ui.fadeSlider.value = 0.25
    connected.settled()
    assert [shown[name].GetForegroundOpacity() for name in names[:3]] == 3 * [0.25]
    assert nodes[0].GetFieldOfView()[0] == 30.0, "it stays where the user has moved it"
    connected.click(connected.ui.sideBySideButton)
    assert [shown[name].GetForegroundVolumeID() for name in names] == 6 * [None]
    connected.click(connected.ui.viewsBeforeButton)
    assert layouts.layout == before
    assert not connected.ui.viewsBeforeButton.enabled


def all_is_seen(node: Any, volume: Any) -> bool:
    """Tell whether a view shows a volume from edge to edge, and as large as it can."""
    import vtk

    inverse, bounds = vtk.vtkMatrix4x4(), [0.0] * 6
    vtk.vtkMatrix4x4.Invert(node.GetSliceToRAS(), inverse)
    volume.GetSliceBounds(bounds, inverse)
    field = node.GetFieldOfView()
    shares = [max(-bounds[2 * axis], bounds[2 * axis + 1]) / (field[axis] / 2) for axis in (0, 1)]
    return max(shares) == pytest.approx(1.0, abs=1e-3)


def test_the_scan_on_the_screen_can_be_left_unsmoothed(connected: Any, scans: Any) -> None:
    scan = connected.load(scans.nifti)
    connected.make_it_short()
    connected.apply()
    assert scan.GetDisplayNode().GetInterpolate()
    connected.click(connected.ui.interpolateCheckBox)
    assert not scan.GetDisplayNode().GetInterpolate()


def test_options_reach_the_server(connected: Any, scans: Any, command_line: Any) -> None:
    import slicer

    connected.load(scans.nifti)
    connected.make_it_short()
    connected.type(connected.ui.spacingComboBox.lineEdit(), "0.8")
    connected.type(connected.ui.thicknessLineEdit, "2.5")
    connected.click(connected.ui.consistencyCheckBox)
    connected.click(connected.ui.correctSlicesCheckBox)
    result = connected.apply()
    said = connected.ui.reportLabel.text
    for sentence in ("Slices 2.5 mm thick, as stated", "Slices not corrected", "Not kept to the scan"):
        assert sentence in said
    options = (
        "--target-spacing",
        "0.8",
        "--slice-thickness",
        "2.5",
        "--no-consistency",
        "--no-correct-slices",
    )
    expected, _sidecar = command_line(scans.nifti, *options)
    found = slicer.util.arrayFromVolume(result).transpose(2, 1, 0)
    assert found.shape == expected.data[0].shape
    np.testing.assert_allclose(found, expected.data[0], rtol=1e-5, atol=1e-3)


def test_an_uncertainty_map_lies_over_the_result(connected: Any, scans: Any) -> None:
    import slicer

    scan = connected.load(scans.nifti)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(scan), study)
    connected.make_it_short()
    assert not connected.ui.uncertaintySlider.enabled
    connected.click(connected.ui.uncertaintyCheckBox)
    result = connected.apply()
    uncertainty = result.GetNodeReference("SRCyc.Uncertainty")
    assert uncertainty is not None
    np.testing.assert_allclose(affine_of(uncertainty), affine_of(result), atol=1e-6)
    assert slicer.util.arrayFromVolume(uncertainty).min() >= 0
    assert connected.ui.uncertaintySlider.enabled
    connected.ui.uncertaintySlider.value = 0.5
    below = [
        node
        for node in composites(slicer.mrmlScene).values()
        if node.GetBackgroundVolumeID() == result.GetID()
    ]
    assert len(below) == 3
    assert {node.GetForegroundVolumeID() for node in below} == {uncertainty.GetID()}
    assert {node.GetForegroundOpacity() for node in below} == {0.5}
    # No scan: it is not offered as one, and lies where the result lies.
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    studies = {
        hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in (scan, result, uncertainty)
    }
    assert studies == {study}
    assert connected.ui.inputSelector.nodeCount() == connected.ui.uploadSelector.nodeCount() == 1
    assert connected.ui.inputSelector.currentNode() is scan
    assert connected.ui.resultSelector.nodeCount() == connected.ui.outputSelector.nodeCount() == 1
    # Faded, it lies over the result alone, and the fade comes back when it goes.
    connected.click(connected.ui.fadeButton)
    assert uncertainty.GetID() in {
        node.GetForegroundVolumeID() for node in composites(slicer.mrmlScene).values()
    }
    connected.ui.uncertaintySlider.value = 0.0
    assert composites(slicer.mrmlScene)["SRCycScanAxial"].GetForegroundVolumeID() == result.GetID()


def test_what_was_corrected_in_the_slices_is_told_and_shown(connected: Any, scans: Any) -> None:
    import slicer

    scan = connected.load(scans.nifti)
    connected.make_it_short()
    connected.click(connected.ui.correctionMapCheckBox)
    result = connected.apply()
    assert "Slices 3.2 mm thick, assumed: 0.8 of their distance" in connected.ui.reportLabel.text
    assert "Slices corrected by " in connected.ui.reportLabel.text
    correction = result.GetNodeReference("SRCyc.Correction")
    assert correction.GetName() == "scan (SRCyc) correction"
    np.testing.assert_allclose(affine_of(correction), affine_of(scan), atol=1e-6)
    values = slicer.util.arrayFromVolume(correction)
    assert values.min() < 0 < values.max()
    assert result.GetNodeReference("SRCyc.Uncertainty") is None


def test_a_thickness_that_is_none_is_said(connected: Any, scans: Any) -> None:
    connected.load(scans.nifti)
    connected.type(connected.ui.thicknessLineEdit, "-3")
    connected.click(connected.ui.applyButton)
    assert "slice_thickness '-3'" in connected.complaint()
    connected.is_ready()


def test_the_thickness_that_dicom_says_is_used(connected: Any, scans: Any) -> None:
    import slicer

    files = sorted(scans.series.iterdir())
    scan = connected.load(files[0], "scan")
    for file in files:
        slicer.dicomDatabase.insert(str(file))
    # As Slicer's DICOM module marks what it loads.
    scan.SetAttribute("DICOM.instanceUIDs", " ".join(slicer.dicomDatabase._files))
    connected.make_it_short()
    assert "3.6 mm, as DICOM says" in connected.ui.rangeLabel.text
    connected.apply()
    assert "Slices 3.6 mm thick, as the file says" in connected.ui.reportLabel.text
    # What the user states counts more.
    connected.type(connected.ui.thicknessLineEdit, "2.5")
    assert "2.5 mm, as stated" in connected.ui.rangeLabel.text
    # One that differs, or of which the database knows nothing any more, is none.
    scan.SetAttribute("DICOM.instanceUIDs", scan.GetAttribute("DICOM.instanceUIDs") + " 1.2.3")
    connected.type(connected.ui.thicknessLineEdit, " ")
    assert "estimated" in connected.ui.rangeLabel.text


def test_a_scan_of_the_server_can_be_loaded_and_used(connected: Any) -> None:
    ui = connected.ui
    connected.choose(ui.sampleComboBox, "series")
    connected.click(ui.loadButton)
    connected.wait(lambda: ui.inputSelector.currentNode() is not None, "load the series")
    assert ui.inputSelector.currentNode().GetImageData().GetDimensions() == (24, 26, 8)
    assert ui.loadButton.enabled
    connected.make_it_short()
    result = connected.apply()
    assert result.GetImageData().GetDimensions()[2] > 8
    connected.leaves_nothing()


def test_a_result_that_is_kept_comes_with_its_scan_and_map(
    connected: Any, srcyc_server: Any, tmp_path: Path
) -> None:
    """From the server, and from a scene that was saved."""
    import slicer

    ui = connected.ui
    kept = srcyc_server.infer(
        "head", output="json", store=True, uncertainty=True, weights="tiny", device="cpu"
    )
    assert kept.json()["stored_as"] == "head_sr"
    try:
        connected.click(ui.connectButton)
        connected.wait(lambda: ui.sampleComboBox.findData("head_sr") >= 0, "list the result")
        connected.choose(ui.sampleComboBox, "head_sr")
        connected.click(ui.loadButton)
        connected.wait(lambda: ui.resultSelector.currentNode() is not None, "load the result")
        result = ui.resultSelector.currentNode()
        shown = (
            result.GetNodeReference("SRCyc.Original"),
            result,
            result.GetNodeReference("SRCyc.Uncertainty"),
        )
        assert [node.GetName() for node in shown] == ["head", "head_sr", "head_sr uncertainty"]
        assert ui.inputSelector.currentNode() is shown[0] and ui.inputSelector.nodeCount() == 1
        assert ui.uncertaintySlider.enabled and "tiny" in ui.reportLabel.text
        assert {node.GetBackgroundVolumeID() for node in composites(slicer.mrmlScene).values()} >= {
            node.GetID() for node in shown[:2]
        }
        # Its scan is there already the next time.
        connected.click(ui.loadButton)
        connected.wait(lambda: ui.resultSelector.nodeCount() == 2, "load it again")
        assert ui.inputSelector.nodeCount() == 1
        connected.leaves_nothing()
    finally:
        assert srcyc_server.delete("/datastore/image", params={"id": "head_sr"}).ok

    for node in shown:
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / f"{node.GetID()}.nrrd"))
        assert node.GetStorageNode().WriteData(node)
    ui.resultSelector.setCurrentNode(result)
    scene = slicer.mrmlScene
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit()
    scene.Clear(0)
    connected.session.process_events()
    assert not ui.uncertaintySlider.enabled
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Import()
    connected.session.process_events()
    again = ui.resultSelector.currentNode()
    assert again.GetName() == "head_sr" and ui.uncertaintySlider.enabled
    assert again.GetNodeReference("SRCyc.Uncertainty").GetName() == "head_sr uncertainty"
    assert ui.inputSelector.nodeCount() == 1


def test_what_cannot_be_super_resolved_is_said_before_anything_is_pressed(connected: Any) -> None:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    connected.ui.inputSelector.setCurrentNode(node)
    ui = connected.ui
    assert not ui.applyButton.enabled
    assert ui.reasonLabel.visible and "nothing" in ui.reasonLabel.text
    assert ui.applyButton.toolTip == ui.reasonLabel.text


def test_what_the_server_refuses_is_said(connected: Any, scans: Any) -> None:
    connected.load(scans.nifti)
    connected.type(connected.ui.spacingComboBox.lineEdit(), "finer")
    connected.click(connected.ui.applyButton)
    said = connected.complaint()
    assert "finer" in said and "Traceback" not in said
    assert connected.ui.messageLabel.text == said
    connected.is_ready()


def test_trouble_with_files_is_said_and_leaves_nothing(connected: Any, scans: Any, monkeypatch: Any) -> None:
    """A full disk when a scan is sent; what comes back and cannot be read; a scan that the server has lost."""
    import slicer

    from SRCycLib import volumes

    ui = connected.ui
    node = connected.load(scans.nifti)
    connected.make_it_short()
    ui.uploadSelector.setCurrentNode(node)

    def no_room(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    def unreadable(*_arguments: Any) -> None:
        raise volumes.VolumeProblem("It cannot be read.")

    for name, fails, buttons in (
        ("export", no_room, (ui.applyButton, ui.uploadButton)),
        ("load", unreadable, (ui.applyButton, ui.loadButton)),
    ):
        for button in buttons:
            with monkeypatch.context() as patch:
                patch.setattr(volumes, name, fails)
                connected.click(button)
                assert ("No space left" if name == "export" else "cannot be read") in connected.complaint()
            assert button.enabled
            connected.is_ready()
    ui.sampleComboBox.setItemData(0, "lost")
    connected.click(ui.loadButton)
    assert "lost" in connected.complaint()
    connected.click(ui.loadButton)
    slicer.mrmlScene.Clear()
    connected.leaves_nothing()
    assert ui.loadButton.enabled and connected.results() == []


@pytest.mark.slow
def test_cancel_returns_at_once_and_the_server_stays_usable(
    connected: Any, patient: tuple[Path, Path], srcyc_server: Any
) -> None:
    connected.load(patient[0])
    connected.make_it_long()
    connected.click(connected.ui.applyButton)
    connected.wait(lambda: "Computing" in connected.ui.statusLabel.text, "compute")
    connected.wait(lambda: connected.ui.applyButton.text == "Cancel", "offer Cancel")
    time.sleep(0.6)  # a click in the first half second is the second one of a double click
    connected.click(connected.ui.applyButton)
    assert connected.ui.applyButton.text == "Apply"
    assert "Cancelled" in connected.ui.statusLabel.text
    connected.is_ready()
    assert connected.results() == []

    # The next one does not wait for what was given up.
    connected.make_it_short()
    begun = time.monotonic()
    connected.apply()
    assert time.monotonic() - begun < 60.0
    assert srcyc_server.get("/info/").ok


def test_a_double_click_starts_one_and_cancels_none(
    connected: Any, scans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first click keeps Slicer busy for longer than a double click takes."""
    from SRCycLib import volumes

    export = volumes.export

    def slowly(*arguments: Any) -> None:
        time.sleep(0.7)
        export(*arguments)

    monkeypatch.setattr(volumes, "export", slowly)
    connected.load(scans.nifti)
    connected.make_it_short()
    connected.click(connected.ui.applyButton, times=2)
    assert connected.ui.applyButton.text == "Cancel"
    connected.wait(lambda: connected.ui.applyButton.text == "Apply", "come to an end")
    assert len(connected.results()) == 1


def test_again_and_again(connected: Any, scans: Any) -> None:
    connected.load(scans.nifti)
    connected.make_it_short()
    names = [connected.apply().GetName() for _again in range(3)]
    assert len(set(names)) == 3
    connected.is_ready()


@pytest.mark.slow
def test_the_scene_is_closed_during_a_request(connected: Any, scans: Any, patient: tuple[Path, Path]) -> None:
    import slicer

    connected.load(patient[0])
    connected.make_it_long()
    connected.click(connected.ui.applyButton)
    connected.wait(lambda: "Computing" in connected.ui.statusLabel.text, "compute")
    slicer.mrmlScene.Clear(0)
    connected.wait(lambda: connected.ui.applyButton.text == "Apply", "give up", 5.0)
    assert connected.ui.inputSelector.currentNode() is None
    assert not connected.ui.applyButton.enabled and not connected.ui.progressBar.visible
    assert connected.results() == []
    connected.leaves_nothing()
    # The connection and the panel live on with the new scene.
    connected.load(scans.nifti, "another")
    connected.make_it_short()
    assert connected.apply().GetName() == "another (SRCyc)"


def test_the_scan_is_deleted_during_a_request(connected: Any, scans: Any) -> None:
    import slicer

    scan = connected.load(scans.nifti, "gone")
    connected.make_it_short()
    connected.click(connected.ui.applyButton)
    slicer.mrmlScene.RemoveNode(scan)
    del scan
    connected.wait(lambda: connected.ui.applyButton.text == "Apply", "come to an end")
    # What the user waited for is not thrown away.
    (result,) = connected.results()
    assert result.GetImageData() is not None
    assert not connected.ui.sideBySideButton.enabled
    connected.leaves_nothing()


def test_choices_are_kept_with_the_scene(
    connected: Any, scans: Any, module_folder: Any, tmp_path: Any
) -> None:
    import slicer

    connected.load(scans.nifti)
    connected.type(connected.ui.spacingComboBox.lineEdit(), "1.5")
    connected.type(connected.ui.thicknessLineEdit, "2.5")
    connected.click(connected.ui.denoiseCheckBox)
    connected.click(connected.ui.correctSlicesCheckBox)
    connected.choose(connected.ui.modelComboBox, DEFAULT_MODEL)
    connected.choose(connected.ui.precisionComboBox, "fp32")
    node = connected.widget.logic.getParameterNode()
    assert node.GetParameter("target_spacing") == "1.5"
    scene = tmp_path / "scene.mrml"
    slicer.mrmlScene.SetURL(str(scene))
    assert slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(0)
    connected.session.process_events()
    # Of another scan nobody knows it.
    assert connected.ui.thicknessLineEdit.text == ""
    connected.click(connected.ui.denoiseCheckBox)
    connected.click(connected.ui.correctSlicesCheckBox)
    connected.choose(connected.ui.modelComboBox, "tiny")
    connected.choose(connected.ui.precisionComboBox, "auto")
    slicer.mrmlScene.SetURL(str(scene))
    slicer.mrmlScene.Import()
    connected.session.process_events()
    assert connected.ui.spacingComboBox.currentText == "1.5"
    assert connected.ui.thicknessLineEdit.text == "2.5"
    assert connected.ui.denoiseCheckBox.checked
    assert not connected.ui.correctSlicesCheckBox.checked
    assert connected.ui.modelComboBox.currentText == DEFAULT_MODEL
    assert connected.ui.precisionComboBox.currentText == "fp32"
    # What a script writes into the parameter node is seen, and used.
    node = connected.widget.logic.getParameterNode()
    node.SetParameter("target_spacing", "0.9")
    node.SetParameter("uncertainty", "true")
    node.SetNodeReferenceID("Input", None)
    assert connected.ui.spacingComboBox.currentText == "0.9"
    assert connected.ui.uncertaintyCheckBox.checked
    assert connected.ui.inputSelector.currentNode() is None and not connected.ui.applyButton.enabled


def test_the_panel_goes_during_a_request(connected: Any, patient: tuple[Path, Path]) -> None:
    connected.load(patient[0])
    connected.make_it_long()
    connected.click(connected.ui.applyButton)
    connected.session.quit()
    left = list((connected.session.folder / "temporary").iterdir())
    assert not left
