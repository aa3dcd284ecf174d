"""The module in the stand-in of the Slicer application, used as its user does: by clicks, with a real server."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from srcyc.models.model_file import DEFAULT_MODEL

#: Longer than anything takes here on a busy machine.
PATIENCE = 120.0

MODULE = Path("srcyc_app/slicer/SRCyc")


def _needed() -> None:
    """Skip, with the reason, where the wheels of Slicer's core or Qt do not exist."""
    where = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
    for package in ("slicer_core", "PySide6"):
        pytest.importorskip(
            package, reason=f"{package}: no wheel for {where}, or the extra `slicer` is not installed"
        )


@pytest.fixture(scope="session")
def module_folder(repository: Path) -> Path:
    """The folder of the Slicer module."""
    return repository / MODULE


@pytest.fixture
def scene() -> Iterator[Any]:
    """A scene of Slicer's core alone, without the stand-in."""
    import slicer

    scene = slicer.vtkMRMLScene()
    yield scene
    scene.Clear(True)


@pytest.fixture(scope="session")
def library() -> Callable[[str], ModuleType]:
    """``library("volumes")`` gives a file of SRCycLib; Slicer's core alone comes without its translations."""

    def load(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            if "slicer.i18n" not in sys.modules:
                translations = SimpleNamespace(tr=lambda text, context=None: text)
                patch.setitem(sys.modules, "slicer.i18n", translations)
            return importlib.import_module(f"SRCycLib.{name}")

    return load


@pytest.fixture
def stand_in() -> Iterator[Any]:
    """A session of the stand-in; what was raised in a slot, event or observer and not asked for fails the test."""
    _needed()
    import slicer_stand_in

    session = slicer_stand_in.start()
    yield session
    slicer_stand_in.close()
    errors = session.errors()
    assert not errors, f"raised where Qt and VTK only print it: {errors!r}"


class Dialogs:
    """Reads the dialogs that open and closes them, as somebody in front of the screen does.

    Attributes:
        texts: what the dialogs said that nobody has asked for yet.
        answer: the standard button that is pressed, if a dialog has it.
    """

    def __init__(self) -> None:
        from PySide6.QtCore import QObject, QTimer
        from PySide6.QtWidgets import QMessageBox

        self.texts: list[str] = []
        self.answer = QMessageBox.StandardButton.Ok
        self._timer = QTimer()
        self._timer.setInterval(20)
        QObject.connect(self._timer, "2timeout()", self._look)
        self._timer.start()

    def _look(self) -> None:
        from PySide6.QtWidgets import QApplication, QMessageBox

        dialog = QApplication.activeModalWidget()
        if isinstance(dialog, QMessageBox):
            self.texts.append(QMessageBox.text(dialog))
            (dialog.button(self.answer) or dialog.buttons()[0]).click()

    def take(self) -> list[str]:
        """Give what the dialogs have said, and forget it."""
        texts, self.texts = self.texts, []
        return texts

    def close(self) -> None:
        self._timer.stop()


class Panel:
    """The module's panel with somebody in front of it.

    Attributes:
        session: of the stand-in.
        ui: the panel's widgets.
        widget: the module's own object.
        dialogs: that have opened.
        complaints: that the panel has shown and nobody has asked for yet.
    """

    def __init__(self, session: Any, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.dialogs = Dialogs()
        self.complaints: list[str] = []
        self.open()

    def open(self) -> None:
        """Open the module."""
        panel = self.session.load_module(self.folder)
        self.widget = panel.self()
        self.ui = self.widget.ui
        self.widget.logic.session.hear_complaints(lambda said: self.complaints.extend([said] if said else []))
        panel.resize(520, 1100)

    # -- the hand ----------------------------------------------------------------------------------------------------

    def reveal(self, widget: Any) -> None:
        """Bring a widget into view: turn to its tab, open its section."""
        from PySide6.QtWidgets import QTabWidget, QWidget

        above = QWidget.parentWidget(widget)
        below = widget
        while above is not None:
            if type(above).__name__ == "ctkCollapsibleButton":
                above.collapsed = False
            if isinstance(above, QTabWidget):
                above.setCurrentIndex(
                    next(i for i in range(above.count) if above.widget(i).isAncestorOf(below))
                )
            above = QWidget.parentWidget(above)
        self.session.process_events()

    def click(self, widget: Any, times: int = 1) -> None:
        """Click with the mouse; two clicks are a double click. Nothing happens where the widget is disabled."""
        from PySide6.QtCore import QPoint, Qt
        from PySide6.QtTest import QTest
        from PySide6.QtWidgets import QWidget

        self.reveal(widget)
        assert widget.visible, f"{widget.name} cannot be seen"
        # A check box takes clicks on its box and text, not beside them.
        place = QPoint(12, QWidget.height(widget) // 2)
        how = (Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, place)
        self.session.in_event_loop(lambda: QTest.mouseClick(widget, *how))
        for _again in range(times - 1):
            self.session.in_event_loop(lambda: QTest.mouseDClick(widget, *how))

    def choose(self, combo: Any, entry: str) -> None:
        """Choose an entry of a combo box by its data or its text, as a user does."""
        self.reveal(combo)
        assert combo.enabled, f"{combo.name} is disabled"
        row = combo.findData(entry)
        row = row if row >= 0 else combo.findText(entry)
        assert row >= 0, f"{entry!r} is not in {[combo.itemText(i) for i in range(combo.count)]}"

        def act() -> None:
            combo.setCurrentIndex(row)
            combo.activated(row)

        self.session.in_event_loop(act)

    def type(self, edit: Any, text: str) -> None:
        """Type a text over what is there."""
        from PySide6.QtTest import QTest

        self.reveal(edit)

        def act() -> None:
            edit.setFocus()
            edit.selectAll()
            QTest.keyClicks(edit, text)

        self.session.in_event_loop(act)

    # -- the eye -----------------------------------------------------------------------------------------------------

    def wait(self, happened: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
        """Let the application run until something is true, and give it."""
        begun, disturbed = time.monotonic(), False
        while time.monotonic() < begun + within and not disturbed:
            # A dialog or an exception that nobody has asked for tells more than a minute's waiting.
            disturbed = bool(self.dialogs.texts or self.complaints or self.session.errors())
            self.session.process_events()
            if result := happened():
                return result
            time.sleep(0.01)
        raise AssertionError(
            f"did not {what} within {time.monotonic() - begun:.0f} s.\nstatus: {self.ui.statusLabel.text!r}; server: "
            f"{self.ui.serverStatusLabel.text!r}; training: {self.ui.trainStatusLabel.text!r}; "
            f"dialogs: {self.dialogs.texts}; complaints: {self.complaints}; "
            f"raised: {self.session.errors()!r}\nlog:\n{self.ui.logText.plainText}"
        )

    def complaint(self) -> str:
        """Wait for one complaint, see that it can be read in both tabs, and give it."""
        self.wait(lambda: self.complaints, "complain")
        (said,), self.complaints = self.complaints, []
        for label in (self.ui.messageLabel, self.ui.trainMessageLabel):
            assert label.text == said and "#58151c" in label.styleSheet
        assert not self.dialogs.texts, "errors are no dialogs"
        return said

    def dialog(self) -> str:
        """Wait for one dialog, and give what it said."""
        self.wait(lambda: self.dialogs.texts, "open a dialog")
        texts = self.dialogs.take()
        assert len(texts) == 1, texts
        return texts[0]

    def settled(self) -> None:
        """Let the application give the views their sizes, and the module fit them."""
        # Rounds count as well as time: where the machine stood still, nothing has happened meanwhile.
        end = time.monotonic() + 0.3
        rounds = 0
        while time.monotonic() < end or rounds < 20:
            self.session.process_events()
            time.sleep(0.01)
            rounds += 1

    # -- what is done in many tests ----------------------------------------------------------------------------------

    def connect(self, url: str) -> None:
        """Test the connection to a server that answers."""
        self.type(self.ui.urlComboBox.lineEdit(), url)
        self.click(self.ui.connectButton)
        self.wait(lambda: "Connected" in self.ui.serverStatusLabel.text, "connect")
        self.wait(lambda: self.ui.sampleComboBox.count > 0, "list the server's scans")

    def load(self, scan: Path, name: str = "scan") -> Any:
        """Load a volume as Slicer does, and choose it as input."""
        import slicer

        node = slicer.util.loadVolume(str(scan), {"name": name, "show": False})
        self.ui.inputSelector.setCurrentNode(node)
        return node

    def apply(self) -> Any:
        """Press Apply and wait for the result."""
        assert self.ui.applyButton.text == "Apply"
        before = {node.GetID() for node in self.results()}
        self.click(self.ui.applyButton)
        assert self.ui.applyButton.text == "Cancel"
        self.wait(lambda: self.ui.applyButton.text == "Apply", "come to an end")
        assert not self.dialogs.texts and not self.complaints, (self.dialogs.texts, self.complaints)
        (result,) = [node for node in self.results() if node.GetID() not in before]
        return result

    def results(self) -> list[Any]:
        """Give the volumes that the module has made, without their maps."""
        import slicer

        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [node for node in nodes if re.search(r"\(SRCyc\)(_\d+)?$", node.GetName())]

    def make_it_long(self) -> None:
        """Choose what takes many seconds on any processor."""
        self.choose(self.ui.modelComboBox, DEFAULT_MODEL)
        self.choose(self.ui.deviceComboBox, "cpu")
        self.choose(self.ui.precisionComboBox, "fp32")
        if not self.ui.uncertaintyCheckBox.checked:
            self.click(self.ui.uncertaintyCheckBox)

    def make_it_short(self) -> None:
        """Choose what takes a moment."""
        self.choose(self.ui.modelComboBox, "tiny")
        if self.ui.uncertaintyCheckBox.checked:
            self.click(self.ui.uncertaintyCheckBox)

    def is_ready(self) -> None:
        """Check that the module can be used: Apply can be pressed, nothing is left of a request."""
        assert self.ui.applyButton.text == "Apply"
        assert self.ui.applyButton.enabled
        assert not self.ui.progressBar.visible
        self.leaves_nothing()

    def leaves_nothing(self) -> None:
        """Check that no request has left files."""
        temporary = Path(self.session.folder) / "temporary"
        left = [path.name for path in temporary.iterdir() if not path.name.startswith("server-")]
        self.wait(
            lambda: not [p for p in temporary.iterdir() if not p.name.startswith("server-")],
            f"clean up {left}",
        )


@pytest.fixture
def open_panel(stand_in: Any, module_folder: Path) -> Iterator[Callable[[], Panel]]:
    """``open_panel()`` opens the module; a dialog or complaint that a test has not asked for fails it."""
    opened: list[Panel] = []

    def begin() -> Panel:
        opened.append(Panel(stand_in, module_folder))
        return opened[-1]

    yield begin
    for shown in opened:
        shown.dialogs.close()
        assert not shown.dialogs.texts, f"dialogs that nobody expected: {shown.dialogs.texts}"
        assert not shown.complaints, f"complaints that nobody expected: {shown.complaints}"


@pytest.fixture
def panel(open_panel: Callable[[], Panel]) -> Panel:
    """The module's panel."""
    return open_panel()


@pytest.fixture
def connected(panel: Panel, srcyc_server: Any) -> Panel:
    """The panel, connected to a server with small scans, the tiny model and those that come with SRCyc."""
    panel.connect(srcyc_server.url)
    return panel
