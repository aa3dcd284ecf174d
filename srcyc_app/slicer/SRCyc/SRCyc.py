"""SRCyc for 3D Slicer: thin slices from thick ones, and training, by a server that this module talks to."""

from __future__ import annotations

import os
import time
import unittest
from pathlib import Path
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

from SRCycLib import volumes
from SRCycLib.client import VERSION
from SRCycLib.compare_panel import ComparePanel
from SRCycLib.local_server import LocalServer, find_program, find_studies
from SRCycLib.parameters import Parameters
from SRCycLib.remote import Remote
from SRCycLib.resolve_panel import ResolvePanel
from SRCycLib.server_panel import ServerPanel
from SRCycLib.session import Session
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
            "The work is done by a SRCyc server, on this computer or another; see docs/slicer.md of SRCyc. "
            "Version {version}. Not for diagnostic use."
        ).format(version=VERSION)
        parent.acknowledgementText = _(
            "SRResCycGAN: Umer and Micheloni, ECCV Workshops 2020, arXiv:2009.03693, extended to volumes."
        )


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

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._scene_closes)
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self._use_scene)

    def enter(self) -> None:
        """Take over the scene's choices; called by Slicer when the module is opened."""
        self._use_scene()

    def cleanup(self) -> None:
        """End what is under way; called by Slicer when the module or Slicer itself ends."""
        self.removeObservers()
        if self._ready:
            self._resolve.close()
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

    def _use_model(self, name: str) -> None:
        self._resolve.choose_model(name)
        self.ui.tabs.setCurrentWidget(self.ui.resolveTab)


class SRCycLogic(ScriptedLoadableModuleLogic):
    """What the module does, for scripts too::

        logic = SRCycLogic()
        logic.session.connect("http://127.0.0.1:8000", done=ready, failed=print)
        logic.super_resolve(volumeNode, {"target_spacing": "1"}, done=show, failed=print)

    Requests run beside the event loop: callbacks come from it.

    Args:
        log: takes a line of the log.
    """

    def __init__(self, log: Any = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._remote = Remote()
        self.session = Session(self._remote, log or (lambda line: None))

    def super_resolve(
        self, scan: Any, params: dict[str, Any], done: Any, failed: Any, progress: Any = None
    ) -> SuperResolution:
        """Send a scalar volume node to the server that the session is connected to.

        Args:
            scan: scalar volume node.
            params: of the inference, as in the server's `/info/`; may be empty.
            done: called with the result, a scalar volume node, and the report.
            failed: called with a sentence.
            progress: called with a state and a share from 0 to 1.

        Raises:
            VolumeProblem: the scan is none that can be super-resolved.
        """
        progress = progress or (lambda state, share: None)
        return SuperResolution(self.session, scan, params, done=done, failed=failed, progress=progress)

    def close(self) -> None:
        """Cancel the requests under way."""
        self._remote.close()


class SRCycTest(ScriptedLoadableModuleTest):
    """The self-test: a server on this computer super-resolves a sample scan.

    Needs the program `srcyc`, found beside the module or named by the environment variable SRCYC_PROGRAM.
    """

    #: Seconds for each step.
    PATIENCE = 300.0

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
        if not program or not studies:
            raise unittest.SkipTest("needs the program srcyc and the sample scans of a clone of SRCyc")
        said: list[str] = []
        logic = SRCycLogic(said.append)
        server = LocalServer(said.append)
        try:
            url = server.start(program, studies)
            answers = self._wait(lambda done, failed: logic.session.connect(url, done, failed, self.PATIENCE))
            self.assertEqual(answers, ())
            scan = volumes.load(Path(studies) / "brain1_image.nrrd", "brain1", slicer.mrmlScene)
            result, report = self._wait(
                lambda done, failed: logic.super_resolve(scan, {"target_spacing": "1"}, done, failed)
            )
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

    def _wait(self, begin: Any) -> Any:
        """Begin a request, let the event loop run until it is answered, and give what ``done`` was called with."""
        answers: list[tuple] = []
        problems: list[str] = []
        begin(lambda *answer: answers.append(answer), problems.append)
        end = time.monotonic() + self.PATIENCE
        while not answers and not problems and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.02)
        self.assertEqual(problems, [])
        self.assertTrue(answers, "no answer in time")
        return answers[0]


def _bounds(node: Any) -> list[float]:
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return bounds
