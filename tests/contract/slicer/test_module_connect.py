"""Connecting: to a server, to none, to something else."""

from __future__ import annotations

import http.server
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from srcyc.models.model_file import DEFAULT_MODEL


def test_before_a_connection_nothing_can_be_started(panel: Any) -> None:
    assert panel.ui.serverStatusLabel.text == "Not connected."
    for button in (panel.ui.applyButton, panel.ui.loadButton, panel.ui.trainButton, panel.ui.uploadButton):
        assert not button.enabled, button.name


def test_a_server_is_shown_with_models_and_scans(connected: Any) -> None:
    ui = connected.ui
    assert "Connected" in ui.serverStatusLabel.text
    assert "tiny" in ui.serverStatusLabel.text
    models = [ui.modelComboBox.itemText(row) for row in range(ui.modelComboBox.count)]
    assert models[0] == "tiny" and DEFAULT_MODEL in models
    samples = [ui.sampleComboBox.itemData(row) for row in range(ui.sampleComboBox.count)]
    assert set(samples) == {"head", "oblique", "signed", "series", "thin", "marker", "steep"}
    # Thick ones first: those are what the module is for.
    assert samples[-1] == "thin"
    assert ui.loadButton.enabled and ui.trainButton.enabled and not ui.applyButton.enabled


def test_the_model_s_card_can_be_read(connected: Any) -> None:
    ui = connected.ui
    connected.choose(ui.modelComboBox, DEFAULT_MODEL)
    assert not ui.cardLabel.visible
    connected.click(ui.cardButton)
    assert ui.cardLabel.visible
    assert "Trained on" in ui.cardLabel.text
    connected.choose(ui.modelComboBox, "tiny")
    assert "untrained" in ui.cardLabel.text


def test_an_address_that_worked_is_remembered(connected: Any, srcyc_server: Any, module_folder: Any) -> None:
    import qt

    kept = str(qt.QSettings().value("SRCyc/urls"))
    assert srcyc_server.url in kept
    panel = connected.session.load_module(module_folder)
    assert panel.self().ui.urlComboBox.currentText == srcyc_server.url
    for damaged in (kept[:-1], "7"):
        qt.QSettings().setValue("SRCyc/urls", damaged)
        panel = connected.session.load_module(module_folder)
        assert panel.self().ui.urlComboBox.count == 1


def test_nobody_there(panel: Any, new_port: Any) -> None:
    port = new_port()
    panel.type(panel.ui.urlComboBox.lineEdit(), f"http://127.0.0.1:{port}")
    panel.click(panel.ui.connectButton)
    said = panel.complaint()
    assert str(port) in said and "Traceback" not in said
    assert panel.ui.serverStatusLabel.text == said
    assert panel.ui.connectButton.enabled
    assert panel.ui.sampleComboBox.count == 0 and not panel.ui.applyButton.enabled
    assert panel.ui.whereComboBox.currentText == "This computer"
    panel.leaves_nothing()


def test_no_address(panel: Any) -> None:
    panel.type(panel.ui.urlComboBox.lineEdit(), "no such thing://")
    panel.click(panel.ui.connectButton)
    assert "Traceback" not in panel.complaint()
    assert panel.ui.connectButton.enabled


@pytest.fixture
def another_server() -> Iterator[str]:
    """A web server that is none of ours."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html><title>Router</title></html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_of_something_else(panel: Any, another_server: str) -> None:
    panel.type(panel.ui.urlComboBox.lineEdit(), another_server)
    panel.click(panel.ui.connectButton)
    said = panel.complaint()
    assert "MONAI Label" in said or "SRCyc" in said
    assert "Traceback" not in said and "<html>" not in said
    assert panel.ui.sampleComboBox.count == 0


def test_the_lists_go_when_the_connection_is_lost(connected: Any, new_port: Any) -> None:
    ui = connected.ui
    connected.type(ui.urlComboBox.lineEdit(), f"http://127.0.0.1:{new_port()}")
    connected.click(ui.connectButton)
    connected.complaint()
    assert ui.modelComboBox.count == 0 and ui.sampleComboBox.count == 0
    assert ui.scansTable.rowCount == 0
    assert not ui.loadButton.enabled and not ui.trainButton.enabled


def test_scans_are_listed_for_the_server_that_is_used(connected: Any, new_port: Any) -> None:
    """Told while it is used; of one that is not used any more nobody wants to know."""
    session, ui = connected.widget.logic.session, connected.ui
    connected.widget._train._set_domain("no such scan", "LR")
    assert "no such scan" in connected.complaint()
    used, session.url = session.url, f"http://127.0.0.1:{new_port()}"
    connected.click(ui.refreshButton)
    assert session.url in connected.complaint()
    session.url = used
    connected.click(ui.refreshButton)
    session.disconnect()
    connected.leaves_nothing()
    assert ui.scansTable.rowCount == 0 and ui.sampleComboBox.count == 0


def test_until_another_server_has_answered_the_one_before_is_used(connected: Any, scans: Any) -> None:
    """A scan goes to nobody who has not said what it is."""
    ui = connected.ui
    connected.load(scans.nifti)
    connected.make_it_short()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connected.type(ui.urlComboBox.lineEdit(), f"127.0.0.1:{silent.getsockname()[1]}")
        connected.click(ui.connectButton)
        connected.wait(lambda: select.select([silent], [], [], 0)[0], "ask it")
        connected.click(ui.applyButton)
        connected.wait(connected.results, "compute")
        connected.connect(connected.widget.logic.session.url)
    connected.is_ready()
