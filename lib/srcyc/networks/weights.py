"""Files of weights that others made; nothing in them is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from srcyc.errors import ModelError


def read_tensors(path: str | Path, keys: str) -> dict[str, Tensor]:
    """Read from a weight file what has certain keys, as float32.

    Args:
        path: ``.pth`` or ``.pt`` (a state dict), ``.safetensors`` or ``.npz``.
        keys: a regular expression.

    Raises:
        ModelError: the file is missing, unreadable, of another kind, or holds what is no finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: does not exist", remedy="give the path of a weight file")
    try:
        tensors = {
            key: torch.as_tensor(value).float() for key, value in _read(path, re.compile(keys)).items()
        }
    except Exception as error:  # a foreign file can fail anywhere inside its reader
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: cannot be read as weights ({reason})", remedy="fetch it again") from error
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: holds NaN or infinite values in {key}", remedy="fetch it again")
    return tensors


def require_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], complaint: str) -> None:
    """Refuse tensors that are not exactly those wanted, by name and shape.

    Raises:
        ModelError: the complaint, and the first that is missing, too many, or of another shape.
    """
    for key in (*wanted, *found):
        needed, has = (tuple(some[key].shape) if key in some else "none" for some in (wanted, found))
        if needed != has:
            raise ModelError(
                f"{complaint} ({key}: shape {needed} is needed, found {has})", remedy="give another file"
            )


def _read(path: Path, keys: re.Pattern[str]) -> dict[str, Any]:
    match path.suffix.lower():
        case ".pth" | ".pt":
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        case ".safetensors":
            tensors = load_file(path)
        case ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive if keys.fullmatch(key)}
        case other:
            raise ValueError(f"its name ends in {other!r}, not in .pth, .pt, .safetensors or .npz")
    return {key: tensors[key] for key in tensors if keys.fullmatch(key)}
