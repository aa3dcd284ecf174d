"""Perceptual loss: distance between VGG feature maps instead of voxels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from srcyc.errors import ConfigError, InputError
from srcyc.losses._checks import full_precision, require_image, require_same_shape
from srcyc.losses.vgg import Backbone, VGGFeatures

#: The last convolution, which is compared unless a layer is named.
_LAST: dict[Backbone, str] = {"vgg19": "conv5_4", "vgg16": "conv5_3"}
#: Layers that the relative form compares: the last of each of the first three blocks.
_RELATIVE_LAYERS = ("relu1_2", "relu2_2", "relu3_3")
#: Squared distance of unit-normalised features below which a baseline counts as perfect, and their least length.
_PERFECT, _LEAST_LENGTH = 2e-3, 1e-3


class PerceptualLoss(nn.Module):
    r"""Mean squared distance between the VGG feature maps of an image and of its ground truth.

    .. math:: L(x, t) = E \left( φ(x) - φ(t) \right)^2

    with φ one convolution's output before its activation (Johnson et al. 2016,
    https://arxiv.org/abs/1603.08155; VGG19 ``conv5_4`` before activation as in ESRGAN,
    https://arxiv.org/abs/1809.00219, and in SRResCGAN). In 3D, φ sees the slices across each of the three
    axes; the loss is the mean over the slices of an axis, then over the axes, so each orientation counts the
    same whatever the patch's shape.

    The weights are read, or fetched if no file is named, when the loss is built.

    VGG is a constant of this loss and no part of the training: it is deliberately not registered as a
    submodule, so it has no entry in ``state_dict()``, none in ``parameters()``, and cannot be trained. It
    follows the device of the images it is given, so ``.to(device)`` is neither needed nor harmful.

    Args:
        backbone: ``"vgg19"`` or ``"vgg16"``.
        layer: a convolution before (``"conv3_3"``) or after (``"relu3_3"``) its activation; ``None`` takes
            the backbone's last convolution (``conv5_4`` or ``conv5_3``).
        weights: a local weight file, see :func:`srcyc.losses.imagenet.load_imagenet`;
            ``None`` takes torchvision's, which are fetched once.
        slices_per_axis: in 3D, how many slices of each axis are compared, evenly spaced; all by default.
        relative: compare features of unit length, as LPIPS does (Zhang et al. 2018, arXiv:1801.03924), of the first
            three blocks unless a layer is named, divided by the distance of a baseline: 1 means that nothing was gained
            (METHOD, section 4). In 3D, the slices are those that the thick (last) axis lies in.

    Raises:
        ConfigError: for an unknown backbone or layer, or a ``slices_per_axis`` below 1.
        ModelError: when the weight file is missing, unreadable or not of this backbone.
        SRCycError: when torchvision is missing or the download fails.
    """

    def __init__(
        self,
        *,
        backbone: Backbone = "vgg19",
        layer: str | None = None,
        weights: str | Path | None = None,
        slices_per_axis: int | None = None,
        relative: bool = False,
    ) -> None:
        super().__init__()
        if slices_per_axis is not None and slices_per_axis < 1:
            raise ConfigError(
                f"slices_per_axis is {slices_per_axis}", remedy="choose 1 or more, or none for all slices"
            )
        layers = (layer or _LAST.get(backbone, ""),) if layer or not relative else _RELATIVE_LAYERS
        self.slices_per_axis = slices_per_axis
        self.relative = relative
        # in a tuple, because nn.Module registers every module that is assigned to it directly
        self._features = (VGGFeatures(backbone, layers, weights=weights),)

    @property
    def features(self) -> VGGFeatures:
        """The feature network."""
        return self._features[0]

    def forward(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        baseline: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the perceptual distance, a scalar; the gradient flows to ``input`` only.

        Args:
            input: ``(B, C, I, J)`` or ``(B, C, I, J, K)`` with C = 1 or 3, intensities normalised to [0, 1].
            target: its ground truth, of the same shape.
            baseline: what is known without a network, of the same shape; for the relative form alone.

        Raises:
            InputError: for shapes that differ or are no images, slices too small for the layer, or
                no baseline where one is needed.
        """
        require_image(input)
        require_same_shape(input, target)
        if input.ndim not in (4, 5) or input.shape[1] not in (1, 3):
            raise InputError(
                f"the perceptual loss takes images or volumes of 1 or 3 channels, got shape {tuple(input.shape)}"
            )
        if (baseline is not None) != self.relative:
            raise InputError(
                "the relative form of the perceptual loss, and no other, takes a baseline",
                remedy="pass the classical inverse" if self.relative else "leave it out",
            )
        images = [full_precision(image) for image in (input, target.detach())]
        if baseline is not None:
            require_same_shape(baseline, target)
            images.append(full_precision(baseline.detach()))
        features = self.features
        if features.mean.device != input.device:
            features.to(input.device)

        if input.ndim == 4:
            return self._distance(features, *images)
        distances = []
        for axis in (2, 3) if self.relative else (2, 3, 4):
            chosen = self._choose_slices(input.shape[axis]).to(input.device)
            distances.append(self._distance(features, *(_slices(x, axis, chosen) for x in images)))
        return torch.stack(distances).mean()

    def _distance(
        self,
        features: VGGFeatures,
        image: torch.Tensor,
        truth: torch.Tensor,
        baseline: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # the truth and the baseline are detached and the features are frozen, so their passes record no graph
        found, wanted = features(image), features(truth)
        if baseline is None:
            pairs = zip(found, wanted, strict=True)
            return torch.stack([F.mse_loss(full_precision(x), full_precision(t)) for x, t in pairs]).mean()
        layers = zip(found, wanted, features(baseline), strict=True)
        return torch.stack([_relative_distance(*map(_unit, layer)) for layer in layers]).mean()

    def _choose_slices(self, size: int) -> torch.Tensor:
        """Return the indices of the slices of an axis that are compared: the centres of slabs of equal thickness."""
        count = size if self.slices_per_axis is None else min(self.slices_per_axis, size)
        return (2 * torch.arange(count) + 1) * size // (2 * count)


def _unit(features: torch.Tensor) -> torch.Tensor:
    features = full_precision(features)
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _LEAST_LENGTH)


def _relative_distance(found: torch.Tensor, wanted: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    distance, allowed = ((x - wanted).square().sum(dim=1).mean() for x in (found, known))
    return distance / (allowed + _PERFECT)


def _slices(volume: torch.Tensor, axis: int, chosen: torch.Tensor) -> torch.Tensor:
    """Return slices across ``axis`` of ``(B, C, I, J, K)`` as a batch ``(B · chosen, C, H, W)``."""
    return volume.index_select(axis, chosen).movedim(axis, 1).flatten(0, 1)
