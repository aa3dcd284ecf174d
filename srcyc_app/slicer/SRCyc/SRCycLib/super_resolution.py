"""One scan's way to the server and back: MRML in, MRML out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SRCycLib import volumes
from SRCycLib.remote import new_folder
from SRCycLib.session import Session

#: Roles by which a result refers to other nodes; they are saved with the scene.
ORIGINAL = "SRCyc.Original"
UNCERTAINTY = "SRCyc.Uncertainty"
CORRECTION = "SRCyc.Correction"

Done = Callable[[Any, dict], None]


class SuperResolution:
    """A request for thin slices.

    Args:
        session: connected to a server.
        scan: scalar volume node.
        params: of the inference, as in the server's `/info/`.
        done: called with the result, a scalar volume node, and the report.
        failed: called with a sentence.
        progress: called with a state and a share from 0 to 1.

    Raises:
        VolumeProblem: the scan is none that can be super-resolved.
    """

    def __init__(
        self,
        session: Session,
        scan: Any,
        params: dict[str, Any],
        *,
        done: Done,
        failed: Callable[[str], None],
        progress: Callable[[str, float], None],
    ) -> None:
        volumes.check_input(scan)
        self._scan_id = scan.GetID()
        self._name = volumes.result_name(scan)
        self._scene = scan.GetScene()
        self._done = done
        self._failed = failed
        self._folder = new_folder("scan")
        try:
            file = self._folder / f"{file_name(scan.GetName())}.nrrd"
            volumes.export(scan, file)
            (self._folder / "result").mkdir()
            self._call = session.call(
                "infer",
                {
                    "file": str(file),
                    "folder": str(self._folder / "result"),
                    "params": {**params, "result_extension": ".nrrd"},
                },
                done=self._load,
                failed=failed,
                progress=progress,
                folder=self._folder,
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def cancel(self) -> None:
        """End it now; neither ``done`` nor ``failed`` is called any more."""
        self._call.cancel()
        self._clean()

    def _give_up(self, sentence: str) -> None:
        self._clean()
        self._failed(sentence)

    def _load(self, answer: dict[str, Any]) -> None:
        try:
            result = self._loaded(answer)
        except (volumes.VolumeProblem, OSError) as problem:
            self._give_up(str(problem))
            return
        self._clean()
        self._done(result, answer["report"])

    def _loaded(self, answer: dict[str, Any]) -> Any:
        # The user may have removed the scan in the meantime; the result is shown all the same.
        scan = self._scene.GetNodeByID(self._scan_id)
        result = volumes.load(Path(answer["volume"]), self._name, self._scene)
        volumes.note(result, answer["report"])
        if scan is not None:
            volumes.adopt(result, scan)
            result.SetNodeReferenceID(ORIGINAL, scan.GetID())
        shown = {
            "uncertainty": (UNCERTAINTY, _("{result} uncertainty"), volumes.uncertainty_display),
            "correction": (CORRECTION, _("{result} correction"), volumes.correction_display),
        }
        for kind, file in answer["maps"].items():
            role, name, display = shown[kind]
            node = volumes.load(Path(file), name.format(result=self._name), self._scene)
            display(node)
            if scan is not None:
                node.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
            result.SetNodeReferenceID(role, node.GetID())
        return result

    def _clean(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def original_of(result: Any) -> Any | None:
    """Give the scan that a result was made from, if it is still there."""
    return result.GetNodeReference(ORIGINAL)


def uncertainty_of(result: Any) -> Any | None:
    """Give a result's uncertainty map, if there is one."""
    return result.GetNodeReference(UNCERTAINTY)


def file_name(name: str) -> str:
    """Give a node's name as a file name that every system and the server accept."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or "scan"
