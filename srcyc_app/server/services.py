"""What the routes share: the app, its line of inferences, its background tasks, its temporary folder."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class Services:
    """One server's parts.

    Attributes:
        app: the MONAI Label app.
        line: inferences.
        quick: what takes seconds and does not wait for inferences.
        training: trainings.
        batch: batch inferences.
        scratch: temporary files.
        limits: what one user may take.
    """

    app: AppCore
    line: Line
    quick: Line
    training: Background
    batch: Background
    scratch: Scratch
    limits: Limits = field(default_factory=Limits)
    _closed: bool = field(default=False, init=False)

    @classmethod
    def of(cls, app: AppCore, limits: Limits | None = None) -> Services:
        """Begin to serve an app."""
        scratch = Scratch()
        app.scratch = scratch.folder
        app.model_dir.mkdir(parents=True, exist_ok=True)
        return cls(
            app,
            Line(),
            Line(),
            Background("train", app.model_dir),
            Background("batch_infer", app.model_dir, scratch=scratch),
            scratch,
            limits or Limits(),
        )

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
