"""Checkpoints: everything a run needs to go on as if it had never stopped, written so that none is ever half there."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from srcyc.errors import ModelError, OutputError


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` (tensors, numbers, strings, containers of them) under a temporary name, then rename.

    Raises:
        OutputError: the folder cannot be written or the disk is full; an earlier checkpoint stays as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: the checkpoint cannot be written ({error}); free space, then resume."
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain containers only, no pickled code is run.

    Raises:
        ModelError: missing, truncated or foreign file.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no checkpoint to resume from; start without --resume.") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: not a readable checkpoint; resume from an earlier one.") from error
    return state
