"""What the routes share: the app, its line of inferences, its background tasks, its temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from srcyc_app.server.jobs import Line
from srcyc_app.server.limits import Limits
from srcyc_app.server.processes import Background
from srcyc_app.server.scratch import Scratch

if TYPE_CHECKING:
    from srcyc_app.core import AppCore


#: Seconds that an inference that was given up has to end.
_PATIENCE = 5.0


class Services:
    """One server's parts.

    Args:
        app: the MONAI Label app, which is served from now on.
        limits: what one user may take.

    Attributes:
        line: inferences.
        quick: what takes seconds and does not wait for inferences.
        training: trainings.
        batch: batch inferences.
        scratch: temporary files.
    """

    def __init__(self, app: AppCore, limits: Limits | None = None) -> None:
        self.app = app
        self.limits = limits or Limits()
        self.scratch = Scratch()
        app.scratch = self.scratch.folder
        app.model_dir.mkdir(parents=True, exist_ok=True)
        self.line, self.quick = Line(), Line()
        self.training = Background("train", app.model_dir)
        self.batch = Background("batch_infer", app.model_dir, scratch=self.scratch)
        self._closed = False

    def places(self) -> dict[str, Path]:
        """Name the folders whose disks may fill up."""
        found = {"models": self.app.model_dir, "temporary": self.scratch.folder}
        if self.app.folder is not None:
            found["studies"] = self.app.folder
        return found

    def halt(self) -> None:
        """Ask everything to end; returns at once."""
        self.line.close()
        self.quick.close()
        self.training.halt()
        self.batch.halt()

    def close(self) -> None:
        """End everything, and leave neither a process nor a temporary file."""
        if self._closed:
            return
        self._closed = True
        self.halt()
        self.training.close()
        self.batch.close()
        self.line.is_idle(within=_PATIENCE)
        close = getattr(self.app.datastore(), "close", None)
        if close is not None:
            close()
        self.scratch.close()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


#: The parameter by which a route gets them.
Served = Annotated[Services, Depends(_services)]
