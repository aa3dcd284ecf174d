"""The section "Server": an address with history, and a server on this computer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SRCycLib.local_server import LocalServer, find_program, find_studies
from SRCycLib.remote import Call
from SRCycLib.session import Session, without_password

_DEFAULT_URL = "http://127.0.0.1:8000"

#: Keys of Slicer's settings.
_URLS = "SRCyc/urls"
_PROGRAM = "SRCyc/program"
_STUDIES = "SRCyc/studies"

_MOST_URLS = 10

#: Seconds that a server on this computer may take until it answers; the first time it reads all of PyTorch from disk.
_PATIENCE = 180.0


class ServerPanel:
    """Connects.

    Args:
        ui: the module's widgets.
        session: that is connected.
    """

    def __init__(self, ui: Any, session: Session) -> None:
        self.ui = ui
        self._session = session
        self._asking: Call | None = None
        self._server = LocalServer(self._local_server_ended)
        self._local_url = ""
        settings = qt.QSettings()
        self._fill_urls(json.loads(settings.value(_URLS) or "[]"))
        ui.programPathEdit.currentPath = settings.value(_PROGRAM) or find_program()
        ui.studiesPathEdit.currentPath = settings.value(_STUDIES) or find_studies()
        ui.connectButton.connect("clicked(bool)", self._test)
        ui.urlComboBox.lineEdit().connect("returnPressed()", self._test)
        ui.localServerButton.connect("clicked(bool)", self._start_or_stop)
        session.listen(self._show)

    def close(self) -> None:
        """Stop the server on this computer."""
        self._server.close()

    def _test(self, _checked: bool = False) -> None:
        self._connect(self.ui.urlComboBox.currentText.strip(), 0.0)

    def _connect(self, url: str, patience: float) -> None:
        self._stop_asking()
        self.ui.serverStatusLabel.text = _("Asking {url} …").format(url=without_password(url))
        self._asking = self._session.connect(url, self._connected, self._failed, patience)

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
        warning = self._session.server["warning"] if self._session.server else ""
        if warning:
            self._session.complain(warning)

    def _failed(self, sentence: str) -> None:
        self.ui.serverStatusLabel.text = sentence
        self._session.complain(sentence)

    def _show(self) -> None:
        server = self._session.server
        if server is None:
            self.ui.serverStatusLabel.text = _("Not connected.")
            return
        names = ", ".join(model["name"] for model in server["models"])
        self.ui.serverStatusLabel.text = _("Connected: SRCyc {version}, models: {names}.").format(
            version=server["version"], names=names
        )

    def _fill_urls(self, urls: list[str]) -> None:
        self.ui.urlComboBox.clear()
        for url in urls or [_DEFAULT_URL]:
            self.ui.urlComboBox.addItem(url)
        self.ui.urlComboBox.setCurrentIndex(0)

    def _start_or_stop(self, _checked: bool = False) -> None:
        if self._server.running:
            self._server.stop()
            if self._session.url == self._local_url:
                self._session.disconnect()
            self.ui.localServerButton.enabled = False
            self.ui.serverStatusLabel.text = _("The server on this computer is stopping …")
        else:
            self._start()

    def _start(self) -> None:
        program = self.ui.programPathEdit.currentPath
        studies = self.ui.studiesPathEdit.currentPath
        if not Path(program).is_file():
            self._session.complain(
                _(
                    "There is no program {program!r}: install the server (pip install -e '.[server]' in a clone "
                    "of SRCyc) and choose the file srcyc in its environment."
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
        except OSError as error:
            self._session.complain(
                _("The program {program!r} cannot be started ({error}): choose another.").format(
                    program=program, error=error
                )
            )
            return
        settings = qt.QSettings()
        settings.setValue(_PROGRAM, program)
        settings.setValue(_STUDIES, studies)
        self._session.tell(_("Starting {program} for {studies}.").format(program=program, studies=studies))
        self.ui.localServerButton.text = _("Stop server")
        self._local_url = url
        self._connect(url, _PATIENCE)

    def _local_server_ended(self, sentence: str) -> None:
        self.ui.localServerButton.enabled = True
        self.ui.localServerButton.text = _("Start server")
        if self._session.url == self._local_url:
            self._stop_asking()
            self._session.disconnect()
        if sentence:
            self._session.complain(sentence)
        else:
            self._session.tell(_("The server on this computer has stopped."))
