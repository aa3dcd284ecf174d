"""The tab "Train": the server's scans, and a training on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SRCycLib import charts, volumes
from SRCycLib.calls import Call
from SRCycLib.session import Session
from SRCycLib.super_resolution import file_name
from SRCycLib.training import is_alive
from SRCycLib.widgets import data, duration, fill, show_message

#: Seconds between two looks at a training.
_INTERVAL = 2.0

#: Boxes filled from the trainer's options, and the parameters that they stand for.
_BOXES = {
    "preset": "presetComboBox",
    "run": "runComboBox",
    "initial_model": "initialModelComboBox",
    "publish": "publishComboBox",
}


class TrainPanel:
    """Shows and changes what is trained on, starts, stops and follows a training.

    Args:
        ui: the module's widgets.
        session: the connection.
        use_model: called with the name of a model that is to be used from now on.
    """

    def __init__(self, ui: Any, session: Session, use_model: Callable[[str], None]) -> None:
        self.ui = ui
        self._session = session
        self._use_model = use_model
        self._watch: Call | None = None
        self._server: dict[str, Any] | None = None
        self._stats: dict[str, Any] = {}
        fill(ui.uploadDomainComboBox, _domains())
        ui.scansTable.horizontalHeader().setStretchLastSection(True)
        ui.scansTable.setWordWrap(False)
        ui.refreshButton.connect("clicked(bool)", self._refresh)
        ui.uploadSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._enable)
        ui.uploadButton.connect("clicked(bool)", self._upload)
        ui.trainButton.connect("clicked(bool)", self._start_or_stop)
        ui.plotButton.connect("clicked(bool)", self._plot)
        ui.useModelButton.connect("clicked(bool)", self._use)
        session.listen(self._server_changed)
        session.hear_scans(self._list)
        session.hear_complaints(lambda sentence: show_message(ui.trainMessageLabel, sentence, "error"))

    def close(self) -> None:
        """Stop following; the training goes on."""
        if self._watch:
            self._watch.cancel()
            self._watch = None

    # --- scans --------------------------------------------------------------------------------------------------

    def _refresh(self, _checked: bool = False) -> None:
        self._session.calm()
        self._session.list_scans()

    def _list(self, scans: list[dict[str, Any]]) -> None:
        table = self.ui.scansTable
        table.setRowCount(len(scans))
        for row, scan in enumerate(scans):
            spacing = " × ".join(f"{mm:.2f}" for mm in scan["spacing"] or ())
            for column, text in ((0, scan["id"]), (1, spacing), (3, scan["error"] or scan["reason"])):
                item = qt.QTableWidgetItem(text or "")
                item.setToolTip(text or "")
                table.setItem(row, column, item)
            table.setCellWidget(row, 2, self._domain_box(scan))
        table.resizeColumnsToContents()

    def _domain_box(self, scan: dict[str, Any]) -> Any:
        box = qt.QComboBox()
        # The choice says what was said; in brackets stands what follows from the spacing.
        automatic = _("{domain} (automatic)").format(domain=scan["domain"])
        fill(box, [(automatic, ""), *_domains()[1:]], scan["tag"] or "")
        box.setToolTip(_("LR: thick slices. HR: thin slices. neither: not used for training."))
        box.enabled = not scan["made_from"]
        box.connect("activated(int)", lambda index: self._set_domain(scan["id"], box.itemData(index)))
        return box

    def _set_domain(self, image: str, domain: str) -> None:
        def failed(sentence: str) -> None:
            self._session.complain(sentence)
            self._session.list_scans()

        def done(_answer: Any) -> None:
            self._session.tell(
                _("{image} is {domain} now.").format(image=image, domain=domain or _("what its spacing says"))
            )
            self._session.list_scans()

        self._session.call("set_domain", {"image": image, "domain": domain}, done=done, failed=failed)

    def _upload(self, _checked: bool = False) -> None:
        self._session.calm()
        node = self.ui.uploadSelector.currentNode()
        name = file_name(node.GetName())

        def exported(folder: Path) -> dict[str, Any]:
            volumes.check_input(node)
            file = folder / f"{name}.nrrd"
            volumes.export(node, file)
            return {"file": str(file), "image": name, "domain": data(self.ui.uploadDomainComboBox)}

        def ended() -> None:
            self.ui.uploadButton.text = _("Upload")
            self._enable()

        def done(answer: dict[str, Any]) -> None:
            ended()
            self._session.tell(_("Uploaded {image}.").format(image=answer["image"]))
            self._session.list_scans()

        def failed(sentence: str) -> None:
            ended()
            self._session.complain(sentence)

        self._session.call("upload", exported, done=done, failed=failed)
        self.ui.uploadButton.text = _("Uploading …")
        self.ui.uploadButton.enabled = False

    # --- training -----------------------------------------------------------------------------------------------

    def _server_changed(self) -> None:
        server = self._session.server
        if server is self._server:  # it is chosen where to compute
            return
        self._server = server
        if server is None:
            self.close()
            self._enable()
            return
        for option, name in _BOXES.items():
            choices = server["trainer"].get(option) or []
            fill(getattr(self.ui, name), [(str(choice), str(choice)) for choice in choices])
        self._show(server["training"])
        if is_alive(self._stats):
            self._follow()

    def _start_or_stop(self, _checked: bool = False) -> None:
        self._session.calm()
        # Each is asked once; the button is enabled again by the answer.
        self.ui.trainButton.enabled = False
        if self._watch:
            self._session.call("stop_training", done=self._stopping, failed=self._refused)
        else:
            self._session.call(
                "train", {"request": self._request()}, done=self._started, failed=self._refused
            )

    def _request(self) -> dict[str, Any]:
        request = {option: data(getattr(self.ui, name)) for option, name in _BOXES.items()}
        request["name"] = self.ui.nameLineEdit.text.strip()
        request["settings"] = self.ui.settingsLineEdit.text.strip()
        return {option: value for option, value in request.items() if value}

    def _started(self, _answer: Any) -> None:
        self.ui.trainStatusLabel.text = _("The training is starting …")
        self._session.tell(_("Training started."))
        self._follow()

    def _stopping(self, _answer: Any) -> None:
        self.ui.trainStatusLabel.text = _("The training finishes its step and saves …")

    def _refused(self, sentence: str) -> None:
        self.ui.trainStatusLabel.text = ""
        self._enable()
        self._session.complain(sentence)

    def _follow(self) -> None:
        self.close()
        self._watch = self._session.call(
            "watch", {"interval": _INTERVAL}, done=self._over, failed=self._lost, news=self._show
        )
        self._enable()

    def _over(self, stats: dict[str, Any]) -> None:
        self._watch = None
        self._show(stats)
        self._session.tell(self.ui.trainStatusLabel.text)
        # The new model is in the lists only after this.
        self._session.refresh()

    def _lost(self, sentence: str) -> None:
        self._watch = None
        self._refused(sentence)

    def _show(self, stats: dict[str, Any]) -> None:
        self._stats = stats or {}
        steps, step = self._stats.get("steps") or 0, self._stats.get("step") or 0
        self.ui.trainStatusLabel.text = _described(self._stats)
        self.ui.trainProgressBar.setMaximum(1000 if steps else 0)
        self.ui.trainProgressBar.setValue(round(1000 * step / steps) if steps else 0)
        if self._watch and self._stats.get("history") and charts.find(slicer.mrmlScene):
            charts.update(slicer.mrmlScene, self._stats)
        self._enable()

    def _enable(self, _node: Any = None) -> None:
        connected = self._session.server is not None
        stopping = self._stats.get("state") == "stopping"
        self.ui.trainHintLabel.visible = not connected
        self.ui.refreshButton.enabled = connected
        self.ui.uploadButton.enabled = connected and self.ui.uploadSelector.currentNode() is not None
        self.ui.trainProgressBar.visible = self._watch is not None
        self.ui.trainButton.text = _("Stop training") if self._watch else _("Start training")
        self.ui.trainButton.enabled = connected and not (self._watch and stopping)
        self.ui.plotButton.enabled = bool(self._stats.get("history"))
        self.ui.useModelButton.enabled = connected and bool(self._published())

    def _published(self) -> str:
        """Give the name of the model that the training shown has published and the server offers."""
        name = self._stats.get("model") or ""
        known = self._session.server["options"]["weights"] if self._session.server else ()
        return name if self._stats.get("published") and name in known else ""

    def _plot(self, _checked: bool = False) -> None:
        chart = charts.update(slicer.mrmlScene, self._stats)
        charts.show(slicer.mrmlScene, slicer.app.layoutManager(), chart)

    def _use(self, _checked: bool = False) -> None:
        self._use_model(self._published())


def _domains() -> list[tuple[str, str]]:
    return [(_("automatic"), ""), (_("LR (thick)"), "LR"), (_("HR (thin)"), "HR"), (_("neither"), "neither")]


def _described(stats: dict[str, Any]) -> str:
    """Say how a training stands."""
    parts = [": ".join(part for part in (stats.get("run"), stats.get("message")) if part)]
    if stats.get("state") == "running" and stats.get("steps"):
        parts.append(_("Step {step} of {steps}.").format(step=stats.get("step") or 0, steps=stats["steps"]))
        if stats.get("remaining"):
            parts.append(_("{time} to go.").format(time=duration(stats["remaining"])))
    validation = stats.get("validation") or {}
    if validation.get("psnr") is not None and validation.get("classical_psnr") is not None:
        parts.append(
            _("Held-back scans: {psnr:.2f} dB, without a network {classical:.2f} dB.").format(
                psnr=validation["psnr"], classical=validation["classical_psnr"]
            )
        )
    return " ".join(parts)
