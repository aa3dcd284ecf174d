"""The tab "Super-resolve": scan in, thin slices out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SRCycLib import volumes
from SRCycLib.cards import card_text
from SRCycLib.parameters import Parameters
from SRCycLib.remote import Call, new_folder
from SRCycLib.session import Session
from SRCycLib.super_resolution import SuperResolution
from SRCycLib.widgets import data, fill

#: Check boxes and the parameters of the inference that they stand for.
_SWITCHES = {
    "consistency": "consistencyCheckBox",
    "correct_slices": "correctSlicesCheckBox",
    "uncertainty": "uncertaintyCheckBox",
    "correction_map": "correctionMapCheckBox",
    "denoise": "denoiseCheckBox",
    "n4": "n4CheckBox",
    "force": "forceCheckBox",
}

#: Seconds within which a second click belongs to the first.
_DOUBLE_CLICK = 0.5

_SPACINGS = ("isotropic", "1", "0.8")


class ResolvePanel:
    """Sends a volume to the server and shows what comes back.

    Args:
        ui: the module's widgets.
        session: the connection.
        parameters: where choices are kept.
        show: called with a result and its report.
    """

    def __init__(
        self, ui: Any, session: Session, parameters: Parameters, show: Callable[[Any, dict], None]
    ) -> None:
        self.ui = ui
        self._session = session
        self._parameters = parameters
        self._show = show
        self._running: SuperResolution | None = None
        self._loading: Call | None = None
        self._applied = 0.0
        for spacing in _SPACINGS[1:]:
            ui.spacingComboBox.addItem(spacing)
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._input_changed)
        ui.loadButton.connect("clicked(bool)", self._load_sample)
        ui.modelComboBox.connect("currentIndexChanged(int)", self._model_changed)
        ui.cardButton.connect("toggled(bool)", self._show_card)
        ui.spacingComboBox.connect("currentTextChanged(QString)", self._options_changed)
        ui.thicknessLineEdit.connect("textChanged(QString)", self._options_changed)
        for name in _SWITCHES.values():
            getattr(ui, name).connect("toggled(bool)", self._options_changed)
        ui.applyButton.connect("clicked(bool)", self._apply_or_cancel)
        session.listen(self._server_changed)

    def use(self, parameters: Parameters) -> None:
        """Take over the choices of another scene."""
        self._parameters = parameters
        self.ui.inputSelector.setCurrentNode(parameters.input or _first_scan())
        # Read before anything is set: each change of a widget keeps the state of all.
        names = ("target_spacing", "slice_thickness", *_SWITCHES)
        kept = {name: parameters.get(name) for name in names}
        self.ui.spacingComboBox.setCurrentText(kept["target_spacing"] or _SPACINGS[0])
        self.ui.thicknessLineEdit.setText(kept["slice_thickness"])
        for option, name in _SWITCHES.items():
            if kept[option]:
                getattr(self.ui, name).checked = kept[option] == "true"
        self._enable()

    def close(self) -> None:
        """Give up what is under way: the scene or the module goes."""
        if self._running:
            self._cancel(_("Cancelled, because the scene was closed."))
        if self._loading:
            self._loading.cancel()
            self._loading = None
        self._enable()

    def choose_model(self, name: str) -> None:
        """Choose a model by its name."""
        index = self.ui.modelComboBox.findData(name)
        if index >= 0:
            self.ui.modelComboBox.setCurrentIndex(index)

    # --- what can be chosen -------------------------------------------------------------------------------------

    def _server_changed(self) -> None:
        server = self._session.server
        if server is None:
            for box in (self.ui.modelComboBox, self.ui.sampleComboBox):
                fill(box, ())
        else:
            options = server["options"]
            fill(self.ui.modelComboBox, [(name, name) for name in options["weights"]])
            fill(self.ui.deviceComboBox, [(name, name) for name in options["device"]])
            fill(self.ui.precisionComboBox, [(name, name) for name in options["precision"]])
            self._session.call("scans", done=self._list_samples, failed=self._session.tell)
        self._model_changed()
        self._enable()

    def _list_samples(self, scans: list[dict[str, Any]]) -> None:
        usable = [scan for scan in scans if not scan["error"]]
        usable.sort(key=lambda scan: (scan["domain"] != "LR", scan["id"]))
        fill(self.ui.sampleComboBox, [(_described(scan), scan["id"]) for scan in usable])
        self._enable()

    def _model_changed(self, _index: int = 0) -> None:
        self._show_card(self.ui.cardButton.checked)

    def _show_card(self, shown: bool) -> None:
        server = self._session.server
        name = data(self.ui.modelComboBox)
        cards = {model["name"]: model["card"] for model in server["models"]} if server else {}
        self.ui.cardLabel.text = card_text(cards.get(name) or {})
        self.ui.cardLabel.visible = bool(shown and self.ui.cardLabel.text)

    def _input_changed(self, node: Any) -> None:
        self._parameters.input = node
        self._enable()

    def _options_changed(self, _value: Any = None) -> None:
        self._parameters.set("target_spacing", self.ui.spacingComboBox.currentText)
        self._parameters.set("slice_thickness", self.ui.thicknessLineEdit.text)
        for option, name in _SWITCHES.items():
            self._parameters.set(option, "true" if getattr(self.ui, name).checked else "false")

    def _enable(self) -> None:
        connected = self._session.server is not None
        ready = connected and self.ui.inputSelector.currentNode() is not None
        self.ui.applyButton.text = _("Cancel") if self._running else _("Apply")
        self.ui.applyButton.enabled = bool(self._running or ready)
        self.ui.loadButton.enabled = connected and self._loading is None and self.ui.sampleComboBox.count > 0
        self.ui.progressBar.visible = self._running is not None

    # --- a scan of the server -----------------------------------------------------------------------------------

    def _load_sample(self, _checked: bool = False) -> None:
        image = data(self.ui.sampleComboBox)
        folder = new_folder("scan")

        def loaded(answer: dict[str, Any]) -> None:
            ended()
            try:
                node = volumes.load(Path(answer["path"]), image, slicer.mrmlScene)
            except volumes.VolumeProblem as problem:
                self._session.complain(str(problem))
                return
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            self.ui.inputSelector.setCurrentNode(node)
            slicer.util.setSliceViewerLayers(background=node, foreground=None, fit=True)
            self._say(_("Loaded {image} from the server.").format(image=image))

        def failed(sentence: str) -> None:
            ended()
            shutil.rmtree(folder, ignore_errors=True)
            self._complain(sentence)

        def ended() -> None:
            self._loading = None
            self._enable()

        self._loading = self._session.call(
            "download", {"image": image, "folder": str(folder)}, done=loaded, failed=failed
        )
        self._say(_("Loading {image} …").format(image=image))
        self._enable()

    # --- super-resolution ---------------------------------------------------------------------------------------

    def _apply_or_cancel(self, _checked: bool = False) -> None:
        if self._running is None:
            self._apply()
        # The second click of a double click is none on "Cancel".
        elif time.monotonic() - self._applied > _DOUBLE_CLICK:
            self._cancel(_("Cancelled."))

    def _apply(self) -> None:
        scan = self.ui.inputSelector.currentNode()
        try:
            self._running = SuperResolution(
                self._session,
                scan,
                self._params(),
                done=self._done,
                failed=self._failed,
                progress=self._progress,
            )
        except (volumes.VolumeProblem, OSError) as problem:
            self._failed(str(problem))
            return
        self._applied = time.monotonic()
        self.ui.progressBar.setMaximum(0)  # busy, until a share is known
        self._say(_("Super-resolving {name} …").format(name=scan.GetName()))
        self._enable()

    def _params(self) -> dict[str, Any]:
        switches = {option: bool(getattr(self.ui, name).checked) for option, name in _SWITCHES.items()}
        return {
            **switches,
            "weights": data(self.ui.modelComboBox),
            "target_spacing": self.ui.spacingComboBox.currentText.strip(),
            "slice_thickness": self.ui.thicknessLineEdit.text.strip(),
            "device": data(self.ui.deviceComboBox),
            "precision": data(self.ui.precisionComboBox),
        }

    def _cancel(self, sentence: str) -> None:
        if self._running:
            self._running.cancel()
            self._running = None
        self._say(sentence)
        self._enable()

    def _progress(self, state: str, share: float) -> None:
        words = {
            "uploading": _("Sending the scan …"),
            "queued": _("Waiting: the server computes for somebody else …"),
            "running": _("Computing …"),
            "downloading": _("Fetching the result …"),
        }
        self.ui.statusLabel.text = words.get(state, state)
        counted = state == "running" and share > 0
        self.ui.progressBar.setMaximum(1000 if counted else 0)
        self.ui.progressBar.setValue(round(1000 * share) if counted else 0)

    def _done(self, result: Any, report: dict[str, Any]) -> None:
        self._running = None
        self._enable()
        self._say(_("Made {name}.").format(name=result.GetName()))
        self._session.tell(volumes.describe(report))
        self._show(result, report)

    def _failed(self, sentence: str) -> None:
        self._running = None
        self._enable()
        self._complain(sentence)

    def _complain(self, sentence: str) -> None:
        self.ui.statusLabel.text = sentence
        self._session.complain(sentence)

    def _say(self, sentence: str) -> None:
        self.ui.statusLabel.text = sentence
        self._session.tell(sentence)


def _first_scan() -> Any | None:
    """Give the first volume of the scene that is no result."""
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and node.GetAttribute(volumes.MADE_BY) is None:
            return node
    return None


def _described(scan: dict[str, Any]) -> str:
    spacing = scan["spacing"]
    shown = " × ".join(f"{mm:.2g}" for mm in spacing) + " mm" if spacing else ""
    return ", ".join(part for part in (scan["description"] or scan["id"], shown, scan["domain"]) if part)
