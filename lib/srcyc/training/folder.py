"""The folder of a run: what lies where in it, and that only one process at a time works there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from srcyc.config import TrainingConfig
from srcyc.data.gathering import TrainingSet
from srcyc.data.store import ScanStore
from srcyc.documents import read_json
from srcyc.errors import DataError, ModelError, OutputError, extra
from srcyc.files import LOCK, claimed, copied, write_text
from srcyc.models.model_file import PublishedModel, load_model
from srcyc.training.checkpoint import Checkpoints
from srcyc.training.settings import checked, read_yaml

with extra("train"):
    import yaml

MODEL_NAME = "model.safetensors"

_SCANS = TypeAdapter(TrainingSet)


@dataclass(frozen=True)
class Plan:
    """What a run is; written when it begins.

    Attributes:
        config: its settings.
        scans: what it trains on, and who is held back.
        initial: the model that it starts from.
    """

    config: TrainingConfig
    scans: TrainingSet
    initial: PublishedModel | None


class RunFolder:
    """The folder of one run.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The best model so far.
        self.model = path / MODEL_NAME
        #: A copy of the model that the run started from.
        self.initial_model = path / "initial.safetensors"
        self.config = path / "config.yaml"
        self.scans = path / "scans.json"
        self.store = ScanStore(path / "prepared-scans")

    def checkpoints(self, config: TrainingConfig) -> Checkpoints:
        """Give the run's checkpoints."""
        return Checkpoints(self.path / "checkpoints", config.keep_checkpoints)

    @property
    def holds_a_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists() or self.model.exists()

    @contextmanager
    def claimed(self, wait: float = 0.0) -> Iterator[None]:
        """Keep others out; a killed process holds nothing.

        Args:
            wait: seconds that another process may still need to end.

        Raises:
            OutputError: another process is training here, or the folder cannot be written.
        """
        busy = OutputError(
            f"{self.path}: another process is training here",
            remedy="wait for it, stop it, or choose another folder",
        )
        with claimed(self.path, busy, wait=wait):
            try:
                yield
            except BaseException:
                self.remove_if_nothing_began()
                raise

    def write(self, plan: Plan) -> None:
        """Write down what the run is, so that it can be taken up again from the folder alone.

        Raises:
            OutputError: it cannot be written.
        """
        if plan.initial is not None:
            copied(plan.initial.path, self.initial_model)
        write_text(self.scans, json.dumps(asdict(plan.scans), indent=1, default=_resolved))
        # Written last: where it stands, there is a run.
        write_text(self.config, yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False))

    def read(self) -> Plan:
        """Read what :meth:`write` wrote.

        Raises:
            ModelError: there is no run.
            ConfigError: the settings cannot be read.
            DataError: the list of scans cannot be read.
        """
        if not self.config.exists():
            raise ModelError(
                f"{self.path}: no run to resume, no checkpoint",
                remedy="start without resume",
                options=("resume",),
            )
        config = checked(read_yaml(self.config), str(self.config))
        try:
            scans = _SCANS.validate_python(read_json(self.scans))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.scans}: the list of scans cannot be read", remedy="start a new run"
            ) from error
        return Plan(config, scans, load_model(self.initial_model) if self.initial_model.exists() else None)

    def remove_prepared_scans(self) -> None:
        """Remove the copies of the scans, which only a running training needs."""
        shutil.rmtree(self.store.folder, ignore_errors=True)

    def remove_if_nothing_began(self) -> None:
        """Leave no trace of a run that was refused before it began."""
        if self.holds_a_run or not self.path.exists():
            return
        self.remove_prepared_scans()
        (self.path / LOCK).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()


def _resolved(path: Path) -> str:
    """Give a path that holds from anywhere; all else that JSON does not know is none."""
    return str(path.resolve())
