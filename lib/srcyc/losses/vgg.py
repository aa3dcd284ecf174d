"""Feature maps of torchvision's VGG16 and VGG19."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from srcyc.errors import ConfigError, InputError
from srcyc.losses.imagenet import imagenet_features, load_imagenet

Backbone = Literal["vgg16", "vgg19"]

#: Of the pictures that the published weights were trained on.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Frozen feature maps of VGG (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556).

    Layers are named as in the paper: ``conv3_2`` is the second convolution of the third block, before its
    activation, ``relu3_2`` after it. Layers behind the last one asked for are dropped.

    Args:
        backbone: ``"vgg19"`` or ``"vgg16"``.
        layers: the layers to return, in this order.
        weights: a local file (see :func:`srcyc.losses.imagenet.load_imagenet`); ``None`` takes torchvision's
            ImageNet weights, which are downloaded once and kept in torch's cache.

    Raises:
        ConfigError: for an unknown backbone or layer.
        ModelError: when the weight file is missing, unreadable, or not of this backbone.
        SRCycError: when torchvision is missing or the download fails.
    """

    def __init__(
        self, backbone: Backbone, layers: Sequence[str], *, weights: str | Path | None = None
    ) -> None:
        super().__init__()
        if backbone not in get_args(Backbone):
            choices = ", ".join(get_args(Backbone))
            raise ConfigError(f"the backbone is {backbone!r}", remedy=f"choose one of {choices}")
        features = imagenet_features(backbone)
        numbers = _numbered(features)
        if unknown := [layer for layer in layers if layer not in numbers]:
            raise ConfigError(
                f"{backbone} has no layer {unknown[0]!r}", remedy=f"choose among {', '.join(numbers)}"
            )
        load_imagenet(features, backbone, weights)
        self.backbone: Backbone = backbone
        self.layers = tuple(layers)
        self._wanted = [numbers[layer] for layer in layers]
        self.features = features[: max(self._wanted) + 1]
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # torchvision's would overwrite what the convolution gave
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.eval()

    @property
    def minimum_size(self) -> int:
        """The smallest image side in pixels that survives the max poolings in front of the last layer."""
        return int(2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in self.features))

    def train(self, mode: bool = True) -> VGGFeatures:
        """Stay in eval mode whatever the module around this one does."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return one feature map ``(B, F, H', W')`` per layer asked for.

        Args:
            images: ``(B, 3, H, W)`` RGB or ``(B, 1, H, W)`` grey (repeated to RGB), normalised to [0, 1]
                (values outside are taken as they are); the ImageNet mean and standard deviation are applied
                here.

        Raises:
            InputError: for another number of channels, or a side below :attr:`minimum_size`.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"{self.backbone} takes images (B, 1 or 3, H, W), got shape {tuple(images.shape)}"
            )
        if min(images.shape[-2:]) < self.minimum_size:
            raise InputError(
                f"an image of {tuple(images.shape[-2:])} pixels is too small for {self.backbone} up to "
                f"{', '.join(self.layers)}, which needs {self.minimum_size}: take larger patches"
            )
        x = (images - self.mean) / self.std
        found: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._wanted:
                found[number] = x
        return tuple(found[number] for number in self._wanted)


def _numbered(features: nn.Sequential) -> dict[str, int]:
    """Give the number in torchvision's sequence of each layer by its name in the paper."""
    numbers: dict[str, int] = {}
    block, position = 1, 0
    for number, layer in enumerate(features):
        if isinstance(layer, nn.MaxPool2d):
            block, position = block + 1, 0
            continue
        is_conv = isinstance(layer, nn.Conv2d)
        position += is_conv
        numbers[f"{'conv' if is_conv else 'relu'}{block}_{position}"] = number
    return numbers
