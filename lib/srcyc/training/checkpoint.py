"""Checkpoints: everything a run needs to go on as if it had never stopped, written so that none is ever half there."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from srcyc.errors import ModelError
from srcyc.files import remove_unfinished, written

_NAME = "step-{:08d}.pt"


class Checkpoints:
    """The checkpoints of one run, the last few of which are kept.

    Args:
        folder: made when the first is written.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """List them, the oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write one, then delete those that are too old.

        Raises:
            OutputError: the folder cannot be written or the disk is full; earlier checkpoints stay as they were.
        """
        path = self.folder / _NAME.format(step)
        save_checkpoint(state, path)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def latest(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """Read the newest one that can be read, and remove what a killed run left unfinished.

        Args:
            warn: told of each that cannot be read.

        Returns:
            its state, or None if the run ended before it wrote one.

        Raises:
            ModelError: none can be read.
        """
        remove_unfinished(self.folder)
        paths = self.paths()
        for path in reversed(paths):
            try:
                return load_checkpoint(path)
            except ModelError as error:
                warn(str(error))
        if paths:
            raise ModelError(
                f"{self.folder}: no checkpoint can be read",
                remedy="start a new run from the model beside it (initial_model)",
            )
        return None


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` (tensors, numbers, strings, containers of them) under a temporary name, then rename.

    Raises:
        OutputError: the folder cannot be written or the disk is full; an earlier checkpoint stays as it was.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with written(path) as stream:
        stream.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain containers only, no pickled code is run.

    Raises:
        ModelError: missing, truncated or foreign file.
    """
    try:
        # PyTorch does not look at the checksums of the archive, and reads a damaged one as other weights.
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True) if intact else {}
        if not intact or not isinstance(state, dict):
            raise ValueError("damaged, or something else")
    except Exception as error:  # a damaged file can fail anywhere inside its readers
        raise ModelError(f"{path}: not a readable checkpoint", remedy="resume from an earlier one") from error
    return state
