"""Networks of torchvision that were trained on ImageNet: their convolutions, frozen."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from srcyc.errors import SRCycError, extra
from srcyc.networks.weights import read_tensors, require_shapes

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
        weights: a local file, see :func:`srcyc.networks.weights.read_tensors`; its keys are
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
