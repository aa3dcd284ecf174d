"""The tab "Super-resolve": scan in, thin slices out."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SRCycLib import volumes
from SRCycLib.calls import Call
from SRCycLib.cards import card_text
from SRCycLib.connection import without_password
from SRCycLib.engine import Preparation
from SRCycLib.parameters import Parameters
from SRCycLib.session import Session
from SRCycLib.suitability import judge
from SRCycLib.super_resolution import SuperResolution, complete
from SRCycLib.widgets import Remaining, data, duration, fill, show_message

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

#: Combo boxes that are filled from what is offered, and the parameters that they stand for.
_BOXES = {"weights": "modelComboBox", "device": "deviceComboBox", "precision": "precisionComboBox"}

#: Seconds within which a second click belongs to the first.
_DOUBLE_CLICK = 0.5

_SPACINGS = ("isotropic", "1", "0.8")


class ResolvePanel:
    """Has a volume super-resolved and shows what comes back.

    Args:
        ui: the module's widgets.
        session: that computes.
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
        self._preparing: Preparation | None = None
        self._loading: Call | None = None
        self._remaining = Remaining()
        self._applied = 0.0
        #: The scan that we have chosen: another one may take its place, as it may not one of the user's choice.
        self._chosen_by_us = ""
        self._updating = False
        self._later = qt.QTimer()
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.connect("timeout()", self._look_at_scene)
        for spacing in _SPACINGS[1:]:
            ui.spacingComboBox.addItem(spacing)
        ui.outputSelector.addAttribute("vtkMRMLScalarVolumeNode", volumes.MADE_BY)
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._input_changed)
        ui.outputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._options_changed)
        ui.loadButton.connect("clicked(bool)", self._load_sample)
        for name in _BOXES.values():
            getattr(ui, name).connect("currentIndexChanged(int)", self._options_changed)
        ui.cardButton.connect("toggled(bool)", self._show_card)
        ui.spacingComboBox.connect("currentTextChanged(QString)", self._options_changed)
        ui.thicknessLineEdit.connect("textChanged(QString)", self._options_changed)
        for name in _SWITCHES.values():
            getattr(ui, name).connect("toggled(bool)", self._options_changed)
        ui.applyButton.connect("clicked(bool)", self._apply_or_cancel)
        self._stop_observing = parameters.observe(self._show_parameters)
        session.listen(self._offer_changed)
        session.hear_scans(self._list_samples)
        session.hear_complaints(lambda sentence: show_message(ui.messageLabel, sentence, "error"))
        self._offer_changed()

    def use(self, parameters: Parameters) -> None:
        """Take over the choices of another scene."""
        self._stop_observing()
        self._parameters = parameters
        self._stop_observing = parameters.observe(self._show_parameters)
        self._look_at_scene()
        self._show_parameters()

    def scene_changed(self) -> None:
        """Hear that a node has come or gone; what it is, it will be only after this event."""
        self._later.start()

    def close(self) -> None:
        """Give up what is under way: the scene or the module goes."""
        if self._running or self._preparing:
            self._cancel(_("Cancelled, because the scene was closed."))
        if self._loading:
            self._loading.cancel()
            self._loading = None
        self._chosen_by_us = ""
        self._enable()

    def cleanup(self) -> None:
        """Look at the scene no more."""
        self.close()
        self._later.stop()
        self._stop_observing()

    def choose_model(self, name: str) -> None:
        """Choose a model by its name."""
        index = self.ui.modelComboBox.findData(name)
        if index >= 0:
            self.ui.modelComboBox.setCurrentIndex(index)

    # --- what can be chosen -------------------------------------------------------------------------------------

    def _offer_changed(self) -> None:
        offer = self._session.offer
        with self._quietly():
            for option, name in _BOXES.items():
                choices = offer["options"].get(option) or () if offer else ()
                fill(getattr(self.ui, name), [(str(each), str(each)) for each in choices])
        self._show_parameters()

    def _list_samples(self, scans: list[dict[str, Any]]) -> None:
        usable = [scan for scan in scans if not scan["error"]]
        usable.sort(key=lambda scan: (scan["domain"] != "LR", scan["id"]))
        fill(self.ui.sampleComboBox, [(_described(scan), scan["id"]) for scan in usable])
        self._enable()

    def _model(self) -> dict[str, Any]:
        """Give name and card of the model that is chosen."""
        name, offer = data(self.ui.modelComboBox), self._session.offer
        models = offer["models"] if offer else ()
        return next((model for model in models if model["name"] == name), {"name": name, "card": None})

    def _show_card(self, shown: bool) -> None:
        model = self._model()
        self.ui.cardLabel.text = card_text(model["card"] or {}) or html.escape(model.get("error", ""))
        self.ui.cardLabel.visible = bool(shown and self.ui.cardLabel.text)

    def _show_range(self) -> None:
        """Say in one line what is to be expected of the scan, before anything is computed."""
        scan = self.ui.inputSelector.currentNode()
        judgement = None
        if scan is not None and not self._problem_of(scan):
            shape, spacing = volumes.size_of(scan)
            target, thickness = self.ui.spacingComboBox.currentText, self.ui.thicknessLineEdit.text
            forced = bool(self.ui.forceCheckBox.checked)
            dicom = volumes.dicom_thickness(scan)
            judgement = judge(shape, spacing, target, thickness, self._model(), forced, dicom)
        kind, text = judgement if judgement else ("good", "")
        show_message(self.ui.rangeLabel, text, kind)

    # --- choices, kept in the scene -----------------------------------------------------------------------------

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Change widgets without taking it for the user's doing."""
        before, self._updating = self._updating, True
        try:
            yield
        finally:
            self._updating = before

    def _look_at_scene(self) -> None:
        """Offer scans only, and choose the likely one, unless the user has chosen."""
        with self._quietly():
            hidden = volumes.not_scans()
            for selector in (self.ui.inputSelector, self.ui.uploadSelector):
                if list(selector.sortFilterProxyModel().hiddenNodeIDs) != hidden:
                    selector.sortFilterProxyModel().hiddenNodeIDs = hidden
        chosen = self._parameters.input
        if (chosen is None or chosen.GetID() == self._chosen_by_us) and not self._busy:
            likely = volumes.likely_scan()
            self._chosen_by_us = likely.GetID() if likely is not None else ""
            self._parameters.input = likely
        self._show_parameters()

    def _show_parameters(self) -> None:
        """Show what the parameter node says; a script may have written it."""
        if self._updating:
            return
        with self._quietly():
            # Not the one that was hidden meanwhile.
            self.ui.inputSelector.setCurrentNode(self._parameters.input)
            self.ui.outputSelector.setCurrentNode(self._parameters.output)
            self.ui.spacingComboBox.setCurrentText(self._parameters.get("target_spacing", _SPACINGS[0]))
            if self.ui.thicknessLineEdit.text != self._parameters.get("slice_thickness"):
                self.ui.thicknessLineEdit.setText(self._parameters.get("slice_thickness"))
            for option, name in _SWITCHES.items():
                kept = self._parameters.get(option)
                if kept:
                    getattr(self.ui, name).checked = kept == "true"
            for option, name in _BOXES.items():
                box = getattr(self.ui, name)
                row = box.findData(self._parameters.get(option))
                if row >= 0:
                    box.setCurrentIndex(row)
        self._show_card(self.ui.cardButton.checked)
        self._show_range()
        self._enable()

    def _input_changed(self, node: Any) -> None:
        if not self._updating:
            self._chosen_by_us = ""
            self._parameters.input = node

    def _options_changed(self, _value: Any = None) -> None:
        if self._updating:
            return
        with self._quietly(), self._parameters.changing():
            self._parameters.output = self.ui.outputSelector.currentNode()
            self._parameters.set("target_spacing", self.ui.spacingComboBox.currentText)
            self._parameters.set("slice_thickness", self.ui.thicknessLineEdit.text)
            for option, name in _SWITCHES.items():
                self._parameters.set(option, "true" if getattr(self.ui, name).checked else "false")
            for option, name in _BOXES.items():
                self._parameters.set(option, data(getattr(self.ui, name)))
        self._show_parameters()

    # --- what can be pressed ------------------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self._running is not None or self._preparing is not None

    def _problem_of(self, scan: Any) -> str:
        try:
            volumes.check_input(scan)
        except volumes.VolumeProblem as problem:
            return str(problem)
        return ""

    def _enable(self) -> None:
        scan = self.ui.inputSelector.currentNode()
        reason = "" if self._busy else self._problem_of(scan) or self._session.obstacle
        self.ui.applyButton.text = _("Cancel") if self._busy else _("Apply")
        self.ui.applyButton.enabled = not reason
        self.ui.applyButton.toolTip = reason or _("Compute the thin slices and show them beside the scan.")
        self.ui.reasonLabel.text = reason
        self.ui.reasonLabel.visible = bool(reason)
        connected = self._session.server is not None
        self.ui.loadButton.enabled = connected and self._loading is None and self.ui.sampleComboBox.count > 0
        self.ui.progressBar.visible = self._busy
        self.ui.whereComboBox.enabled = not self._busy

    # --- a scan of the server -----------------------------------------------------------------------------------

    def _load_sample(self, _checked: bool = False) -> None:
        image = data(self.ui.sampleComboBox)
        self._session.calm()

        def loaded(answer: dict[str, Any]) -> None:
            self._loading = None
            try:
                self._take(image, answer)
            except volumes.VolumeProblem as problem:
                self._session.complain(str(problem))
                return
            finally:
                self._enable()
            self._say(_("Loaded {image} from the server.").format(image=image))

        def failed(sentence: str) -> None:
            self._loading = None
            self._enable()
            self._session.complain(sentence)

        self._loading = self._session.call(
            "download", lambda folder: {"image": image, "folder": str(folder)}, done=loaded, failed=failed
        )
        self._say(_("Loading {image} …").format(image=image))
        self._enable()

    def _take(self, image: str, answer: dict[str, Any]) -> None:
        """Show what the server has sent: a scan, or a result beside the scan that it was made from."""
        if "report" not in answer:
            self._parameters.input = scan = self._load_scan(image, answer["path"])
            slicer.util.setSliceViewerLayers(background=scan, foreground=None, fit=True)
            return
        scan, theirs = None, answer.get("scan")
        if theirs:
            scans = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            address = self._address(theirs["id"])
            there = (node for node in scans if node.GetAttribute(volumes.OF_SERVER) == address)
            scan = next(there, None) or self._load_scan(theirs["id"], theirs["path"])
            self._parameters.input = scan
        result = volumes.load(Path(answer["path"]), image, slicer.mrmlScene)
        complete(result, scan, answer)
        self._look_at_scene()
        self._show(result, answer["report"])

    def _load_scan(self, image: str, path: str) -> Any:
        node = volumes.load(Path(path), image, slicer.mrmlScene)
        node.SetAttribute(volumes.OF_SERVER, self._address(image))
        return node

    def _address(self, image: str) -> str:
        return f"{without_password(self._session.url)} {image}"

    # --- super-resolution ---------------------------------------------------------------------------------------

    def _apply_or_cancel(self, _checked: bool = False) -> None:
        if not self._busy:
            self._apply()
        # The second click of a double click is none on "Cancel".
        elif time.monotonic() - self._applied > _DOUBLE_CLICK:
            self._cancel(_("Cancelled."))

    def _apply(self) -> None:
        self._session.calm()
        self.ui.progressBar.setMaximum(0)  # busy, until a share is known
        self._say(_("Looking what is needed …") if self._session.offer is not self._session.server else "")
        self._preparing = self._session.prepare(_may_install, self._say_installing, self._begin, self._failed)
        self._enable()
        # From now on it says "Cancel"; a click made before that may be heard only now.
        self._applied = time.monotonic()

    def _say_installing(self, sentence: str, share: float) -> None:
        self._bar(share)
        self.ui.statusLabel.text = sentence

    def _begin(self) -> None:
        self._preparing = None
        scan: Any = self._parameters.input
        self._remaining = Remaining()
        try:
            self._running = SuperResolution(
                self._session,
                scan,
                self._params(),
                output=self._parameters.output,
                done=self._done,
                failed=self._failed,
                progress=self._progress,
            )
        except volumes.VolumeProblem as problem:
            self._failed(str(problem))
            return
        self.ui.progressBar.setMaximum(0)
        self._say(_("Super-resolving {name} …").format(name=scan.GetName()))
        self._enable()

    def _params(self) -> dict[str, Any]:
        switches = {option: bool(getattr(self.ui, name).checked) for option, name in _SWITCHES.items()}
        return {
            **switches,
            **{option: data(getattr(self.ui, name)) for option, name in _BOXES.items()},
            "target_spacing": self.ui.spacingComboBox.currentText.strip(),
            "slice_thickness": self.ui.thicknessLineEdit.text.strip(),
        }

    def _cancel(self, sentence: str) -> None:
        for call in (self._running, self._preparing):
            if call:
                call.cancel()
        self._running = self._preparing = None
        self._say(sentence)
        self._enable()

    def _progress(self, state: str, share: float) -> None:
        words = {
            "uploading": _("Sending the scan …"),
            "queued": _("Waiting: the server computes for somebody else …"),
            "starting": _("Starting …"),
            "reading": _("Reading the scan …"),
            "running": _("Computing …"),
            "writing": _("Writing the result …"),
            "downloading": _("Fetching the result …"),
        }
        text = words.get(state, state)
        left = self._remaining.seconds(share) if state == "running" else None
        if left is not None:
            text += " " + _("about {time} to go").format(time=duration(left))
        self.ui.statusLabel.text = text
        self._bar(share if state == "running" else 0.0)

    def _bar(self, share: float) -> None:
        self.ui.progressBar.setMaximum(1000 if share > 0 else 0)
        self.ui.progressBar.setValue(round(1000 * share))

    def _done(self, result: Any, report: dict[str, Any]) -> None:
        self._running = None
        self._say(_("Made {name}.").format(name=result.GetName()))
        warnings = [text[:1].upper() + text[1:] for text in map(str, report.get("warnings") or ())]
        for line in (*volumes.describe(report).splitlines(), *warnings):
            self._session.tell(line)
        show_message(self.ui.messageLabel, "\n".join(warnings), "warning")
        self._look_at_scene()
        self._show(result, report)

    def _failed(self, sentence: str) -> None:
        self._running = self._preparing = None
        self.ui.statusLabel.text = "" if sentence else _("Nothing was installed.")
        self._enable()
        if sentence:
            self._session.complain(sentence)

    def _say(self, sentence: str) -> None:
        self.ui.statusLabel.text = sentence
        if sentence:
            self._session.tell(sentence)


def _may_install(question: str) -> bool:
    return bool(slicer.util.confirmYesNoDisplay(question, windowTitle="SRCyc"))


def _described(scan: dict[str, Any]) -> str:
    spacing = scan["spacing"]
    shown = " × ".join(f"{mm:.2g}" for mm in spacing) + " mm" if spacing else ""
    return ", ".join(part for part in (scan["id"], shown, scan["domain"]) if part)
