"""One scan's way to where it is computed and back: MRML in, MRML out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SRCycLib import volumes
from SRCycLib.session import Session

#: Roles by which a result refers to other nodes; they are saved with the scene.
ORIGINAL = "SRCyc.Original"
UNCERTAINTY = "SRCyc.Uncertainty"
CORRECTION = "SRCyc.Correction"

Done = Callable[[Any, dict], None]


class SuperResolution:
    """A request for thin slices.

    Args:
        session: that computes.
        scan: scalar volume node.
        params: of the inference, as in the server's `/info/`.
        output: result of before that is replaced; None: a new volume.
        done: called with the result, a scalar volume node, and the report.
        failed: called with a sentence.
        progress: called with a state and a share from 0 to 1.

    Raises:
        VolumeProblem: the scan is none that can be super-resolved, or the output none that may be replaced.
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
        output: Any = None,
    ) -> None:
        volumes.check_input(scan)
        if output is not None:
            volumes.check_output(output, scan)
        self._scan_id = scan.GetID()
        self._output_id = output.GetID() if output is not None else ""
        self._name = output.GetName() if output is not None else volumes.result_name(scan)
        self._scene = scan.GetScene()
        self._done = done
        self._failed = failed

        def exported(folder: Path) -> dict[str, Any]:
            file = folder / f"{file_name(scan.GetName())}.nrrd"
            volumes.export(scan, file)
            results = folder / "result"
            results.mkdir()
            wishes = {**params, "result_extension": ".nrrd"}
            return {"file": str(file), "folder": str(results), "params": wishes}

        self._call = session.infer(exported, done=self._load, failed=failed, progress=progress)

    def cancel(self) -> None:
        """End it now; neither ``done`` nor ``failed`` is called any more."""
        self._call.cancel()

    def _load(self, answer: dict[str, Any]) -> None:
        try:
            result = self._loaded(answer)
        except (volumes.VolumeProblem, OSError) as problem:
            self._failed(str(problem))
            return
        # Segment Editor and other modules begin with the active volume.
        slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(result.GetID())
        self._done(result, answer["report"])

    def _loaded(self, answer: dict[str, Any]) -> Any:
        # The user may have removed the scan in the meantime; the result is shown all the same.
        scan = self._scene.GetNodeByID(self._scan_id)
        result = volumes.load(Path(answer["volume"]), self._name, self._scene)
        output = self._scene.GetNodeByID(self._output_id) if self._output_id else None
        if output is not None:
            self._forget_maps(output)
            result = volumes.move(result, output)
        complete(result, scan, answer)
        return result

    def _forget_maps(self, result: Any) -> None:
        """Remove the maps of a result that is replaced: they would be false."""
        for role in (UNCERTAINTY, CORRECTION):
            node = result.GetNodeReference(role)
            if node is not None:
                result.SetNodeReferenceID(role, None)
                self._scene.RemoveNode(node)


def complete(result: Any, scan: Any, answer: dict[str, Any]) -> None:
    """Make a loaded volume the result that it is: told how it was made, shown as its scan is, with its maps.

    Args:
        result: scalar volume node.
        scan: that it was made from; None: it is not there any more.
        answer: ``report`` and ``maps``, as of :meth:`SRCycLib.client.Client.infer`.

    Raises:
        VolumeProblem: a map cannot be read.
    """
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
        node = volumes.load(Path(file), name.format(result=result.GetName()), result.GetScene())
        node.SetAttribute(volumes.MAP, kind)
        display(node)
        if scan is not None:
            volumes.put_beside(node, scan)
        result.SetNodeReferenceID(role, node.GetID())


def original_of(result: Any) -> Any | None:
    """Give the scan that a result was made from, if it is still there."""
    return result.GetNodeReference(ORIGINAL)


def uncertainty_of(result: Any) -> Any | None:
    """Give a result's uncertainty map, if there is one."""
    return result.GetNodeReference(UNCERTAINTY)


def file_name(name: str) -> str:
    """Give a node's name as a file name that every system and the server accept."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or "scan"
