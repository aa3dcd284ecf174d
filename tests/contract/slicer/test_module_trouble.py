"""The server dies, or is this computer's own: started, stopped and ended from the panel."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ended import has_ended

pytestmark = pytest.mark.slow


@pytest.fixture
def mortal(serve: Any, studies_of: Any, tiny_model: Path) -> Iterator[Any]:
    """A server that a test may kill."""
    server = serve("srcyc", studies_of("nifti", "nrrd"), model=tiny_model)
    yield server
    server.end()


def test_the_server_is_killed_during_a_request(panel: Any, mortal: Any, patient: tuple[Path, Path]) -> None:
    panel.connect(mortal.url)
    panel.load(patient[0])
    panel.make_it_long()
    panel.click(panel.ui.applyButton)
    panel.wait(lambda: "Computing" in panel.ui.statusLabel.text, "compute")
    mortal.kill()
    said = panel.complaint()
    assert "Traceback" not in said and "HTTPConnection" not in said
    assert str(mortal.port) in said or "server" in said.lower()
    assert panel.ui.messageLabel.text == said
    panel.is_ready()
    assert panel.results() == []

    # Nobody is there now: that is said too, and nothing is stuck.
    panel.click(panel.ui.applyButton)
    assert str(mortal.port) in panel.complaint()
    panel.is_ready()

    mortal.restart()
    panel.connect(mortal.url)
    panel.make_it_short()
    assert panel.apply() is not None
    panel.is_ready()


def test_slicer_ends_during_a_request(connected: Any, patient: tuple[Path, Path]) -> None:
    panel = connected
    panel.load(patient[0])
    panel.make_it_long()
    panel.click(panel.ui.applyButton)
    panel.wait(lambda: "Computing" in panel.ui.statusLabel.text, "compute")
    begun = time.monotonic()
    panel.session.quit()
    assert time.monotonic() - begun < 30.0
    assert list((panel.session.folder / "temporary").iterdir()) == []
    assert not [child for child in psutil.Process().children() if "SRCycLib.worker" in " ".join(_line(child))]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# -- no process can be begun -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def moved_away(place: Path) -> Iterator[None]:
    hidden = place.rename(place.with_name("moved away"))
    try:
        yield
    finally:
        hidden.rename(place)


@contextlib.contextmanager
def no_process_left() -> Iterator[None]:
    """As Linux and Windows say it: no test can have so many."""

    def refused(*_arguments: Any, **_options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", refused)
        yield


def test_every_button_says_why_nothing_can_be_begun(
    connected: Any,
    srcyc_server: Any,
    scans: Any,
    file_size_limit: Callable[[int], contextlib.AbstractContextManager[None]],
) -> None:
    """And can be pressed again."""
    ui, folder = connected.ui, Path(connected.session.folder)
    ui.uploadSelector.setCurrentNode(connected.load(scans.nifti))
    some = (ui.uploadButton, ui.trainButton, ui.connectButton)
    every = (ui.applyButton, ui.loadButton, ui.refreshButton, *some)
    for buttons, trouble, *facts_and_remedies in (
        (every, moved_away(folder / "bin" / "PythonSlicer"), "PythonSlicer cannot be run", "restart Slicer"),
        (some, moved_away(folder / "temporary"), "temporary", "check the disk"),
        (some, file_size_limit(0), "disk is full", "free some space"),
        (some, no_process_left(), "no room for another process", "close other programs"),
    ):
        connected.make_it_short()
        connected.leaves_nothing()
        with trouble:
            for button in buttons:
                text = button.text
                connected.click(button)
                said = connected.complaint()
                no_export = button is ui.uploadButton and "check that the disk has room" in said
                assert no_export or all(part in said for part in facts_and_remedies), (button.name, said)
                assert button.enabled and button.text == text, button.name
        assert connected.results() == [] and not ui.progressBar.visible
        connected.connect(srcyc_server.url)
    connected.make_it_short()
    assert connected.apply() is not None
    connected.is_ready()


# -- a server on this computer ---------------------------------------------------------------------------------------


@pytest.fixture
def local(panel: Any, studies_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The panel with program and folder chosen; the server has a home of its own."""
    if sys.platform == "win32":
        pytest.skip("the program is a shell script here")
    # The real program, with a model folder that is not the clone's.
    program = tmp_path / "bin" / "srcyc"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m srcyc.cli "$@" --model-dir "{tmp_path}/models"\n'
    )
    program.chmod(0o755)
    panel.session.environment["HOME"] = str(tmp_path)
    panel.session.environment["OMP_NUM_THREADS"] = "1"
    panel.ui.programPathEdit.currentPath = str(program)
    panel.ui.studiesPathEdit.currentPath = str(studies_of("nifti"))
    yield panel
    for process in servers():
        process.kill()


def servers() -> list[psutil.Process]:
    """Give the servers that the panel has started; those of the fixtures bear a mark."""
    return [
        child
        for child in psutil.Process().children()
        if "serve" in _line(child) and "SRCYC_TEST_SERVER" not in child.environ()
    ]


def start(panel: Any) -> psutil.Process:
    panel.click(panel.ui.localServerButton)
    assert panel.ui.localServerButton.text == "Stop server"
    (process,) = panel.wait(servers, "start a server")
    return process


def test_a_server_is_started_used_and_stopped(local: Any, scans: Any) -> None:
    process = start(local)
    local.wait(lambda: local.ui.sampleComboBox.count > 0, "connect to the server on this computer")
    assert "Connected" in local.ui.serverStatusLabel.text
    assert local.ui.sampleComboBox.itemData(0) == "head"
    # Slicer's own variables would make another Python load Slicer's libraries.
    assert "SLICER_HOME" not in process.environ()
    assert "127.0.0.1" in _line(process)

    local.click(local.ui.localServerButton)
    local.wait(lambda: local.ui.localServerButton.text == "Start server", "stop the server")
    assert local.ui.localServerButton.enabled
    assert has_ended(process)
    assert local.ui.modelComboBox.count == 0
    assert not local.complaints
    local.leaves_nothing()


def test_a_server_that_dies_is_missed(local: Any) -> None:
    """Here before it has answered; after that, requests find out."""
    process = start(local)
    process.kill()
    said = local.complaint()
    assert "ended" in said and "Traceback" not in said
    assert local.ui.localServerButton.text == "Start server" and local.ui.localServerButton.enabled
    assert local.ui.sampleComboBox.count == 0


def test_the_server_ends_with_slicer(local: Any) -> None:
    process = start(local)
    local.session.quit()
    assert has_ended(process)


def test_a_server_that_does_not_end_is_ended(
    local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SRCycLib import local_server

    monkeypatch.setattr(local_server, "_GRACE", 0.0)
    (tmp_path / "bin" / "srcyc").write_text("#!/bin/sh\nexec sleep 600\n")
    before = set(psutil.Process().children())
    local.click(local.ui.localServerButton)
    new = set(psutil.Process().children()) - before
    (process,) = (each for each in new if "SRCycLib.worker" not in " ".join(_line(each)))
    local.click(local.ui.localServerButton)
    local.wait(lambda: local.ui.localServerButton.text == "Start server", "end it")
    assert has_ended(process)
    local.leaves_nothing()


def test_a_program_that_is_no_server(local: Any, tmp_path: Path) -> None:
    program = tmp_path / "srcyc"
    program.write_text("#!/bin/sh\necho 'I am something else.'\nexit 3\n")
    program.chmod(0o755)
    local.ui.programPathEdit.currentPath = str(program)
    local.click(local.ui.localServerButton)
    said = local.complaint()
    assert "I am something else." in said and "3" in said
    assert local.ui.localServerButton.text == "Start server" and local.ui.localServerButton.enabled
    assert local.ui.connectButton.enabled
    local.leaves_nothing()


@pytest.mark.parametrize("field", ["programPathEdit", "studiesPathEdit"])
def test_what_is_missing_is_said(local: Any, tmp_path: Path, field: str) -> None:
    getattr(local.ui, field).currentPath = str(tmp_path / "missing")
    local.click(local.ui.localServerButton)
    assert "missing" in local.complaint()
    assert servers() == []


def test_a_program_that_cannot_be_run(local: Any, tmp_path: Path) -> None:
    program = tmp_path / "srcyc"
    program.write_text("nothing that runs")
    local.ui.programPathEdit.currentPath = str(program)
    local.click(local.ui.localServerButton)
    said = local.complaint()
    assert f"{program} cannot be run" in said and "choose another program" in said
    with moved_away(Path(local.session.folder) / "temporary"):
        local.click(local.ui.localServerButton)
        assert "check the disk" in local.complaint()
    assert local.ui.localServerButton.text == "Start server" and local.ui.localServerButton.enabled
    assert not list((Path(local.session.folder) / "temporary").glob("server-*"))
    local.leaves_nothing()


def test_a_server_is_started_and_nobody_can_ask_it(local: Any, tmp_path: Path) -> None:
    """It runs: that can be seen, and it can be stopped."""
    (tmp_path / "bin" / "srcyc").write_text("#!/bin/sh\nexec cat\n")
    with moved_away(Path(local.session.folder) / "bin" / "PythonSlicer"):
        local.click(local.ui.localServerButton)
        assert "PythonSlicer cannot be run" in local.complaint()
        assert local.ui.localServerButton.text == "Stop server"
        local.click(local.ui.localServerButton)
        local.wait(lambda: local.ui.localServerButton.text == "Start server", "stop it")
    assert local.ui.localServerButton.enabled
