"""Where it is computed: on this computer, or by a server, with its address, history, and one to be started here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SRCycLib.calls import Call
from SRCycLib.connection import without_password
from SRCycLib.local_server import LocalServer, find_program, find_studies
from SRCycLib.processes import Problem
from SRCycLib.session import ENGINE, SERVER, Session
from SRCycLib.widgets import data, fill, show_message

_DEFAULT_URL = "http://127.0.0.1:8000"

#: Keys of Slicer's settings.
_WHERE = "SRCyc/where"
_URLS = "SRCyc/urls"
_PROGRAM = "SRCyc/program"
_STUDIES = "SRCyc/studies"

_MOST_URLS = 10

#: Seconds that a server on this computer may take until it answers; the first time it reads all of PyTorch from disk.
_PATIENCE = 180.0


class ServerPanel:
    """Chooses and connects.

    Args:
        ui: the module's widgets.
        session: that is connected.
    """

    def __init__(self, ui: Any, session: Session) -> None:
        self.ui = ui
        self._session = session
        self._asking: Call | None = None
        self._asked = ""
        self._server = LocalServer(self._local_server_ended)
        self._local_url = ""
        settings = qt.QSettings()
        urls = _addresses(settings.value(_URLS))
        self._fill_urls(urls)
        fill(
            ui.whereComboBox,
            [(_("This computer"), ENGINE), (_("A server"), SERVER)],
            settings.value(_WHERE) or ENGINE,
        )
        ui.programPathEdit.currentPath = settings.value(_PROGRAM) or find_program()
        ui.studiesPathEdit.currentPath = settings.value(_STUDIES) or find_studies()
        ui.connectButton.connect("clicked(bool)", self._test)
        ui.urlComboBox.lineEdit().connect("returnPressed()", self._test)
        ui.localServerButton.connect("clicked(bool)", self._start_or_stop)
        ui.whereComboBox.connect("currentIndexChanged(int)", self._where_changed)
        session.listen(self._show)
        session.choose(data(ui.whereComboBox))
        if session.where == SERVER and urls:
            # Nobody has asked for it just now: if it fails, the reason stands where the address does.
            self._connect(urls[0], 0.0, self._say_why)

    def close(self) -> None:
        """Stop the server on this computer."""
        self._server.close()

    def _where_changed(self, _index: int) -> None:
        where = data(self.ui.whereComboBox)
        qt.QSettings().setValue(_WHERE, where)
        self._session.calm()
        self._session.choose(where)
        if where == SERVER and self._session.server is None:
            self.ui.advancedSection.collapsed = False

    def _test(self, _checked: bool = False) -> None:
        self._session.calm()
        self._connect(self.ui.urlComboBox.currentText.strip(), 0.0, self._failed)

    def _connect(self, url: str, patience: float, failed: Callable[[str], None]) -> None:
        self._stop_asking()
        self.ui.serverStatusLabel.text = _("Asking {url} …").format(url=without_password(url))
        self._asked = url
        self._asking = self._session.connect(url, self._connected, failed, patience)

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _connected(self) -> None:
        url = self._session.url
        known = [self.ui.urlComboBox.itemText(row) for row in range(self.ui.urlComboBox.count)]
        urls = [url, *(other for other in known if other != url)][:_MOST_URLS]
        self._fill_urls(urls)
        qt.QSettings().setValue(_URLS, json.dumps([without_password(known) for known in urls]))
        # Who asks for a server wants it to compute.
        self.ui.whereComboBox.setCurrentIndex(self.ui.whereComboBox.findData(SERVER))
        warning = self._session.server["warning"] if self._session.server else ""
        if warning:
            self._session.complain(warning)

    def _failed(self, sentence: str) -> None:
        self._say_why(sentence)
        self._session.complain(sentence)

    def _say_why(self, sentence: str) -> None:
        show_message(self.ui.serverStatusLabel, sentence, "error")
        self._session.tell(sentence)

    def _show(self) -> None:
        server = self._session.server
        if server is None:
            show_message(self.ui.serverStatusLabel, _("Not connected."), "warning")
            return
        names = ", ".join(model["name"] for model in server["models"])
        words = _("Connected: SRCyc {version}, models: {names}.")
        show_message(self.ui.serverStatusLabel, words.format(version=server["version"], names=names), "good")

    def _fill_urls(self, urls: list[str]) -> None:
        self.ui.urlComboBox.clear()
        for url in urls or [_DEFAULT_URL]:
            self.ui.urlComboBox.addItem(url)
        self.ui.urlComboBox.setCurrentIndex(0)

    def _start_or_stop(self, _checked: bool = False) -> None:
        if self._server.running:
            self._server.stop()
            self._leave_local()
            self.ui.localServerButton.enabled = False
            self.ui.serverStatusLabel.text = _("The server on this computer is stopping …")
        else:
            self._start()

    def _start(self) -> None:
        self._session.calm()
        program = self.ui.programPathEdit.currentPath
        studies = self.ui.studiesPathEdit.currentPath
        if not Path(program).is_file():
            self._session.complain(
                _(
                    "There is no program {program!r}: install the server (its guide says how) and choose the file "
                    "srcyc of its environment."
                ).format(program=program)
            )
            return
        if not Path(studies).is_dir():
            self._session.complain(
                _("There is no folder {studies!r}: choose the one with your scans.").format(studies=studies)
            )
            return
        try:
            url = self._server.start(program, studies)
        except Problem as problem:
            self._session.complain(str(problem))
            return
        settings = qt.QSettings()
        settings.setValue(_PROGRAM, program)
        settings.setValue(_STUDIES, studies)
        self._session.tell(_("Starting {program} for {studies}.").format(program=program, studies=studies))
        self.ui.localServerButton.text = _("Stop server")
        self._local_url = url
        self._connect(url, _PATIENCE, self._failed)

    def _local_server_ended(self, sentence: str) -> None:
        self.ui.localServerButton.enabled = True
        self.ui.localServerButton.text = _("Start server")
        self._leave_local()
        self._show()
        if sentence:
            self._session.complain(sentence)
        else:
            self._session.tell(_("The server on this computer has stopped."))

    def _leave_local(self) -> None:
        """Use the server on this computer no more, nor wait for it."""
        if self._asked == self._local_url:
            self._stop_asking()
        if self._session.url == self._local_url:
            self._session.disconnect()


def _addresses(kept: Any) -> list[str]:
    """Give the addresses in a setting; none if it is damaged: the module opens all the same."""
    try:
        return [str(url) for url in json.loads(kept or "[]")]
    except (TypeError, ValueError):
        return []
