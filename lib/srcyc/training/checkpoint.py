"""Checkpoints: everything a run needs to go on as if it had never stopped, written so that none is ever half there."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from srcyc.errors import ModelError
from srcyc.files import written


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
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no checkpoint to resume from; start without --resume.") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: not a readable checkpoint; resume from an earlier one.") from error
    return state
