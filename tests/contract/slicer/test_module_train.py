"""The tab "Train": scans and their domains, and a training from its start to the use of its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PEOPLE = ["sub-a_T1w", "sub-b_T1w", "sub-c_T1w", "sub-d_T1w"]


@pytest.fixture(scope="module")
def trainer(serve: Any, training_studies: Any, tiny_model: Path) -> Iterator[Any]:
    """A server with two thick and two thin heads."""
    server = serve("srcyc", training_studies(), model=tiny_model)
    server.wait_for(lambda: server.client.datastore()["objects"].keys() >= set(PEOPLE), "notice the scans")
    yield server
    server.end()


@pytest.fixture
def training(panel: Any, trainer: Any) -> Iterator[Any]:
    """The panel at the tab "Train", connected; no test leaves a training to the next."""
    panel.connect(trainer.url)
    panel.reveal(panel.ui.trainButton)
    panel.wait(lambda: panel.ui.scansTable.rowCount >= 4, "list the scans")
    yield panel
    if trainer.children():
        trainer.client.train_stop()
        trainer.wait_for(lambda: not trainer.children(), "end the training")


def table(panel: Any) -> dict[str, tuple[str, str, str]]:
    """Give what the table says of each scan: spacing, chosen domain, reason."""
    rows = panel.ui.scansTable
    return {
        rows.item(row, 0).text(): (
            rows.item(row, 1).text(),
            rows.cellWidget(row, 2).currentText,
            rows.item(row, 3).text(),
        )
        for row in range(rows.rowCount)
    }


def domain_box(panel: Any, image: str) -> Any:
    rows = panel.ui.scansTable
    row = next(row for row in range(rows.rowCount) if rows.item(row, 0).text() == image)
    return rows.cellWidget(row, 2)


def tag(server: Any, image: str) -> Any:
    objects = server.client.datastore()["objects"]
    return objects[image]["image"]["info"].get("domain_tag")


def steps(server: Any, name: str) -> int:
    """How far the training of a name is; until it has begun, the server tells about the one before."""
    told = server.get("/info/").json()["train_stats"]["srcyc"]
    return told.get("step") or 0 if told.get("run") == name else 0


def fill_in(panel: Any, request: dict[str, Any]) -> None:
    """Fill in what the fixture `tiny_training` asks for."""
    ui = panel.ui
    panel.type(ui.nameLineEdit, request["name"])
    panel.type(ui.settingsLineEdit, f"steps={request['steps']} {request['settings']}")
    panel.choose(ui.initialModelComboBox, "none")
    panel.choose(ui.publishComboBox, request.get("publish", "if better"))
    panel.choose(ui.runComboBox, request.get("run", "continue"))


def test_scans_are_listed_with_their_domain(training: Any) -> None:
    listed = table(training)
    assert sorted(listed) == PEOPLE
    for image, (spacing, domain, reason) in listed.items():
        thick = image[4] in "cd"
        assert spacing == f"1.00 × 1.00 × {4 if thick else 1:.2f}"
        assert domain.startswith("LR" if thick else "HR"), domain
        assert reason


def test_a_domain_is_changed_and_changed_back(training: Any, trainer: Any) -> None:
    training.choose(domain_box(training, "sub-a_T1w"), "neither")
    training.wait(lambda: tag(trainer, "sub-a_T1w") == "neither", "tell the server")
    training.wait(lambda: table(training)["sub-a_T1w"][1] == "neither", "show it")
    training.choose(domain_box(training, "sub-a_T1w"), "")
    training.wait(lambda: not tag(trainer, "sub-a_T1w"), "tell the server")
    training.wait(lambda: table(training)["sub-a_T1w"][1].startswith("HR"), "show it")


def test_a_volume_is_uploaded_to_a_domain(training: Any, trainer: Any, scans: Any) -> None:
    ui = training.ui
    node = training.load(scans.nifti, "new head")
    assert not ui.uploadButton.enabled
    ui.uploadSelector.setCurrentNode(node)
    training.choose(ui.uploadDomainComboBox, "LR")
    training.click(ui.uploadButton)
    training.wait(lambda: "new_head" in table(training), "show the upload")
    assert table(training)["new_head"][1].startswith("LR")
    assert tag(trainer, "new_head") == "LR"
    training.leaves_nothing()

    # The same once more would replace it: the server refuses, and that is said.
    training.click(ui.uploadButton)
    assert "new_head" in training.complaint()
    training.wait(lambda: ui.uploadButton.enabled, "be ready again")
    trainer.delete("/datastore/?id=new_head")
    training.click(ui.refreshButton)
    training.wait(lambda: "new_head" not in table(training), "see that it is gone")


def test_a_training_runs_to_its_end_and_its_model_is_used(
    training: Any, trainer: Any, tiny_training: Any, scans: Any
) -> None:
    import slicer

    ui = training.ui
    fill_in(training, tiny_training(steps=24, name="mine", publish="always"))
    training.click(ui.trainButton)
    training.wait(lambda: ui.trainButton.text == "Stop training", "start")
    training.wait(lambda: ui.trainProgressBar.visible, "show how far it is")
    assert not ui.useModelButton.enabled
    training.wait(lambda: ui.trainButton.text == "Start training", "finish")
    training.wait(lambda: ui.useModelButton.enabled, "offer the new model")
    assert not ui.trainProgressBar.visible
    assert "mine" in ui.trainStatusLabel.text

    training.click(ui.plotButton)
    charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert charts and all(chart.GetNumberOfPlotSeriesNodes() >= 2 for chart in charts)
    tables = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert max(node.GetNumberOfRows() for node in tables) >= 3
    training.click(ui.plotButton)
    assert slicer.util.getNodesByClass("vtkMRMLPlotChartNode") == charts
    views = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
    assert {view.GetPlotChartNodeID() for view in views} >= {chart.GetID() for chart in charts}
    assert slicer.app.layoutManager().plotViewCount == len(charts)

    training.click(ui.useModelButton)
    assert ui.tabs.currentWidget().name == "resolveTab"
    assert ui.modelComboBox.itemData(ui.modelComboBox.currentIndex) == "mine"
    training.load(scans.nifti)
    result = training.apply()
    assert np.isfinite(slicer.util.arrayFromVolume(result)).all()
    assert "mine" in result.GetAttribute("SRCyc.Model")


def test_a_training_is_found_again_stopped_and_gone_on_with(
    training: Any, trainer: Any, tiny_training: Any
) -> None:
    fill_in(training, tiny_training(steps=5000, name="long"))
    training.click(training.ui.trainButton)
    training.wait(lambda: steps(trainer, "long") > 0, "get on")
    training.session.quit()
    assert trainer.children(), "the training does not end with Slicer"

    training.open()
    ui = training.ui
    training.connect(trainer.url)
    training.wait(lambda: ui.trainButton.text == "Stop training", "see the training")
    training.click(ui.trainButton)
    training.wait(lambda: ui.trainButton.text == "Start training" and ui.trainButton.enabled, "stop")
    assert "stopped" in ui.trainStatusLabel.text
    trainer.wait_for(lambda: not trainer.children(), "end the training")
    reached = steps(trainer, "long")
    assert reached > 0

    fill_in(training, tiny_training(steps=5000, name="long"))
    training.click(ui.trainButton)
    training.wait(lambda: ui.trainButton.text == "Stop training", "go on")
    training.wait(lambda: steps(trainer, "long") > reached, "get beyond where it was stopped")
    training.click(ui.trainButton)
    training.wait(lambda: ui.trainButton.text == "Start training" and ui.trainButton.enabled, "stop")


def test_a_training_that_is_refused(training: Any) -> None:
    ui = training.ui
    training.type(ui.settingsLineEdit, "steps=many")
    training.click(ui.trainButton)
    said = training.complaint()
    assert "steps" in said and "Traceback" not in said
    assert ui.trainMessageLabel.text == said
    training.wait(
        lambda: ui.trainButton.text == "Start training" and ui.trainButton.enabled, "be ready again"
    )
    assert not ui.trainProgressBar.visible


def test_the_server_dies_during_a_training(training: Any, trainer: Any, tiny_training: Any) -> None:
    """The last one: nothing is left of the server."""
    fill_in(training, tiny_training(steps=5000, name="lost"))
    training.click(training.ui.trainButton)
    training.wait(lambda: steps(trainer, "lost") > 0, "get on")
    trainer.kill()
    said = training.complaint()
    assert "Traceback" not in said and "HTTPConnection" not in said
    assert str(trainer.port) in said
    assert training.ui.trainButton.text == "Start training"
    assert not training.ui.trainProgressBar.visible
    trainer.end()
