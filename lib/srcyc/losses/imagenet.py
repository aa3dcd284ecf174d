"""Networks of torchvision that were trained on ImageNet: their convolutions, frozen, and files of weights."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from srcyc.errors import ModelError, SRCycError, extra

Network = Literal["vgg16", "vgg19", "alexnet"]


def imagenet_features(network: Network) -> nn.Sequential:
    """Give the convolutional part of a network, in eval mode; its weights come with :func:`load_imagenet`.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    with extra("perceptual"):
        from torchvision.models import get_model
    with torch.device("meta"):  # takes neither memory nor random numbers
        features: nn.Sequential = get_model(network, weights=None).features
    return features.eval()


def load_imagenet(features: nn.Sequential, network: Network, weights: str | Path | None) -> None:
    """Give a network its weights, and freeze it.

    Args:
        features: of :func:`imagenet_features`.
        network: its name in torchvision.
        weights: a local file, ``.pth`` or ``.pt`` (a state dict), ``.safetensors`` or ``.npz``; its keys are
            torchvision's (``features.0.weight``, with or without the classifier) or ``vgg16.conv0.weight``, counted
            over the convolutions (other networks may lie beside them). None: torchvision's, fetched once, hash checked.

    Raises:
        ModelError: the file is missing, unreadable, or does not hold exactly the network's convolutions.
        SRCycError: the download failed.
    """
    keys = rf"(features\.|{network}\.conv)\d+\.(weight|bias)"
    found = _fetched(network) if weights is None else read_tensors(weights, keys)
    convolutions = [name for name, layer in features.named_children() if isinstance(layer, nn.Conv2d)]
    names = {f"{network}.conv{n}": f"features.{name}" for n, name in enumerate(convolutions)}
    parts = ((tensor, *key.rpartition(".")) for key, tensor in found.items())
    state = {
        f"{names.get(layer, layer)}.{kind}".removeprefix("features."): tensor
        for tensor, layer, _, kind in parts
    }
    require_shapes(state, features.state_dict(), f"{weights or 'the download'}: not the weights of {network}")
    features.load_state_dict(state, assign=True)
    features.requires_grad_(False)


def read_tensors(path: str | Path, keys: str) -> dict[str, Tensor]:
    """Read from a weight file what has certain keys, as float32.

    Args:
        path: see :func:`load_imagenet`.
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


def _fetched(network: Network) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    published = get_model_weights(network).DEFAULT
    try:
        # It tells of the download on stdout, where a JSON answer may belong.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise SRCycError(
            f"the weights of {network} could not be downloaded from {published.url} ({error})",
            remedy="connect this machine for the first use, or name a local weight file",
        ) from error
    return {key: tensor for key, tensor in state.items() if key.startswith("features.")}
