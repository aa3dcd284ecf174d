"""SRCyc for 3D Slicer: thin slices from thick ones, on this computer or by a server, and training on a server."""

from __future__ import annotations

import os
import time
import unittest
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from SRCycLib import VERSION, engine, sample_data, volumes
from SRCycLib.calls import Calls
from SRCycLib.compare_panel import ComparePanel
from SRCycLib.local_server import LocalServer, find_program, find_studies
from SRCycLib.parameters import Parameters
from SRCycLib.resolve_panel import ResolvePanel
from SRCycLib.server_panel import ServerPanel
from SRCycLib.session import ENGINE, SERVER, Session
from SRCycLib.super_resolution import SuperResolution, original_of
from SRCycLib.train_panel import TrainPanel


class SRCyc(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "SRCyc"
        parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering")]
        parent.dependencies = []
        parent.contributors = ["The SRCyc developers"]
        parent.helpText = _(
            "Super-resolution of MR volumes: a thick-slice scan becomes a thin-slice volume at the same place. "
            "It is computed on this computer or by a server; docs/slicer.md of SRCyc is the guide. "
            "Version {version}. Not for diagnostic use."
        ).format(version=VERSION)
        parent.acknowledgementText = _(
            "SRResCycGAN: Umer and Micheloni, ECCV Workshops 2020, arXiv:2009.03693, extended to volumes."
        )
        slicer.app.connect("startupCompleted()", sample_data.register)


class SRCycWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel: makes its parts and connects them."""

    _ready = False

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        """Build the panel; called by Slicer once."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SRCyc.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)

        self.logic = SRCycLogic(self.ui.logText.appendPlainText)
        session, parameters = self.logic.session, self._parameters()
        self._compare = ComparePanel(self.ui, parameters)
        self._resolve = ResolvePanel(self.ui, session, parameters, self._compare.show)
        self._train = TrainPanel(self.ui, session, self._use_model)
        self._server = ServerPanel(self.ui, session)
        self._ready = True
        self._use_scene()

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._scene_closes)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self._use_scene)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self._scene_changes)

    def enter(self) -> None:
        """Take over the scene's choices; called by Slicer when the module is opened."""
        self._use_scene()

    def cleanup(self) -> None:
        """End what is under way; called by Slicer when the module or Slicer itself ends."""
        self.removeObservers()
        if self._ready:
            self._resolve.cleanup()
            self._compare.cleanup()
            self._train.close()
            self._server.close()
            self.logic.close()

    def _parameters(self) -> Parameters:
        return Parameters(self.logic.getParameterNode())

    def _use_scene(self, _caller: Any = None, _event: Any = None) -> None:
        parameters = self._parameters()
        self._resolve.use(parameters)
        self._compare.use(parameters)

    def _scene_closes(self, _caller: Any, _event: Any) -> None:
        self._resolve.close()
        self._compare.close()

    def _scene_changes(self, _caller: Any, _event: Any) -> None:
        self._resolve.scene_changed()

    def _use_model(self, name: str) -> None:
        self._resolve.choose_model(name)
        self.ui.tabs.setCurrentWidget(self.ui.resolveTab)


class Failure(RuntimeError):
    """What a script asked for could not be done; the text is a sentence."""


class SRCycLogic(ScriptedLoadableModuleLogic):
    """What the module does, for scripts too::

        result, report = SRCycLogic().process(getNode("brain1_image"), {"target_spacing": "1"})

    :meth:`super_resolve` does not wait.

    Args:
        log: takes a line of the log.
    """

    def __init__(self, log: Any = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.calls = Calls()
        self.session = Session(self.calls, log or (lambda line: None))

    def process(
        self,
        scan: Any,
        params: dict[str, Any] | None = None,
        *,
        output: Any = None,
        server: str = "",
        install: bool = False,
        progress: Any = None,
        patience: float = 3600.0,
    ) -> tuple[Any, dict[str, Any]]:
        """Super-resolve a scalar volume node and wait for it; Slicer does meanwhile what is due.

        Args:
            scan: scalar volume node.
            params: of the inference, as in the server's `/info/`; the rest is as in the panel.
            output: result of before that is replaced; None: a new volume.
            server: address of one that computes; "": this computer.
            install: whether what is missing may be installed into Slicer's Python.
            progress: called with a state and a share from 0 to 1.
            patience: seconds for all of it.

        Returns:
            the result, a scalar volume node, and the report.

        Raises:
            VolumeProblem: the scan is none that can be super-resolved.
            Failure: it could not be computed; says why.
        """
        end = time.monotonic() + patience
        volumes.check_input(scan)
        session = self.session
        session.choose(SERVER if server else ENGINE)
        if server and not (session.server and session.url == server):
            _waited(lambda done, failed: session.connect(server, done, failed), end)
        if session.obstacle:
            raise Failure(session.obstacle)
        refused = _("Something has to be installed first: press Apply once, or pass install=True.")
        _waited(
            lambda done, failed: session.prepare(
                lambda _question: install,
                lambda sentence, _share: session.tell(sentence),
                done,
                lambda sentence: failed(sentence or refused),
            ),
            end,
        )
        result, report = _waited(
            lambda done, failed: self.super_resolve(scan, params or {}, done, failed, progress, output), end
        )
        return result, report

    def super_resolve(
        self,
        scan: Any,
        params: dict[str, Any],
        done: Any,
        failed: Any,
        progress: Any = None,
        output: Any = None,
    ) -> SuperResolution:
        """Begin a super-resolution where the session computes; callbacks come from the event loop.

        Args:
            scan: scalar volume node.
            params: of the inference, as in the server's `/info/`; may be empty.
            done: called with the result, a scalar volume node, and the report.
            failed: called with a sentence.
            progress: called with a state and a share from 0 to 1.
            output: result of before that is replaced; None: a new volume.

        Raises:
            VolumeProblem: the scan is none that can be super-resolved.
        """
        progress = progress or (lambda state, share: None)
        return SuperResolution(
            self.session, scan, params, done=done, failed=failed, progress=progress, output=output
        )

    def close(self) -> None:
        """Cancel the requests under way."""
        self.calls.close()


def _waited(begin: Any, end: float) -> Any:
    """Begin something, let the event loop run until it is answered, and give what ``done`` was called with.

    Raises:
        Failure: it failed, or the time is over.
    """
    answers: list[tuple] = []
    problems: list[str] = []
    begun = begin(lambda *answer: answers.append(answer), problems.append)
    while not answers and not problems:
        if time.monotonic() > end:
            if begun is not None:
                begun.cancel()
            raise Failure(_("There was no answer in time."))
        slicer.app.processEvents()
        time.sleep(0.02)
    if problems:
        raise Failure(problems[0])
    return answers[0]


class SRCycTest(ScriptedLoadableModuleTest):
    """The self-test: a sample scan is super-resolved.

    By the program `srcyc`, found beside the module or named by the environment variable SRCYC_PROGRAM, as a server of
    its own; without one by this computer, if what it needs is installed.
    """

    #: Seconds for the whole of it.
    PATIENCE = 600.0

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests; called by Slicer."""
        self.setUp()
        self.test_sample_scan()

    def test_sample_scan(self) -> None:
        """A thick-slice scan of the sample data comes back thin, at the same place."""
        program, studies = os.environ.get("SRCYC_PROGRAM") or find_program(), find_studies()
        sample = sample_data.folder() / "brain1_image.nrrd"
        if not sample.is_file():
            raise unittest.SkipTest("needs the sample scans of SRCyc")
        said: list[str] = []
        logic = SRCycLogic(said.append)
        server = LocalServer(said.append)
        end = time.monotonic() + self.PATIENCE
        try:
            url = ""
            if program and studies:
                url = server.start(program, studies)
                _waited(lambda done, failed: logic.session.connect(url, done, failed, self.PATIENCE), end)
            else:
                (needs,) = _waited(lambda done, failed: engine.look(logic.calls, done, failed), end)
                if not needs.complete:
                    raise unittest.SkipTest("needs packages that the first Apply installs")
            scan = volumes.load(sample, "brain1", slicer.mrmlScene)
            result, report = logic.process(scan, {"target_spacing": "1"}, server=url, patience=self.PATIENCE)
        finally:
            logic.close()
            server.close()
        self.assertIs(original_of(result), scan)
        self.assertGreater(scan.GetSpacing()[2], 5.0)
        self.assertAlmostEqual(result.GetSpacing()[2], 1.0, delta=0.05)
        for ours, theirs in zip(_bounds(result), _bounds(scan)):
            self.assertAlmostEqual(ours, theirs, delta=0.5)
        self.assertLess(report["consistency"]["residual"], 1e-3)
        self.delayDisplay("The self-test has passed.")


def _bounds(node: Any) -> list[float]:
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return bounds
