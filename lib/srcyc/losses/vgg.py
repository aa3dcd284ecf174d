"""The convolutional part of VGG16 and VGG19 as a frozen feature extractor, and its weight files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from srcyc.errors import ConfigError, InputError, ModelError, SRCycError

Backbone = Literal["vgg16", "vgg19"]

# Convolutions per block and their width, configurations D and E of the VGG paper. Each block ends
# in a 2x2 max pooling.
_BLOCK_DEPTHS: dict[str, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_BLOCK_WIDTHS = (64, 128, 256, 512, 512)

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Frozen feature maps of VGG (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556).

    Layers are named as in the paper: ``conv3_2`` is the second convolution of the third block, before its
    activation, ``relu3_2`` after it. Layers behind the last one asked for are not built.

    Args:
        backbone: ``"vgg19"`` or ``"vgg16"``.
        layers: the layers to return, in this order.
        weights: a local file (see :func:`read_vgg_weights`); ``None`` takes torchvision's ImageNet weights,
            which are downloaded once and kept in torch's cache.

    Raises:
        ConfigError: for an unknown backbone or layer.
        ModelError: when the weight file is missing, unreadable, or not of this backbone.
        SRCycError: when torchvision is missing or the download fails.
    """

    def __init__(
        self, backbone: Backbone, layers: Sequence[str], *, weights: str | Path | None = None
    ) -> None:
        super().__init__()
        positions = [conv_index(backbone, layer) for layer in layers]
        if not positions:
            raise ConfigError(
                f"no layer of {backbone} was named",
                remedy=f"choose at least one, such as {last_layer(backbone)}",
            )
        self.backbone: Backbone = backbone
        self.layers = tuple(layers)

        tensors = download_vgg_weights(backbone) if weights is None else read_vgg_weights(weights, backbone)
        shapes = _conv_shapes(backbone)[: max(positions) + 1]
        self.convs = nn.ModuleList(nn.Conv2d(shape[1], shape[0], 3, padding=1) for shape in shapes)
        used = {key: tensor for key, tensor in tensors.items() if int(key.split(".")[0]) < len(shapes)}
        self.convs.load_state_dict(used, strict=True)
        self._pool_before = _block_starts(backbone)

        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    @property
    def minimum_size(self) -> int:
        """The smallest image side in pixels that survives the max poolings in front of the last layer."""
        return int(2 ** sum(start < len(self.convs) for start in self._pool_before))

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
        found: dict[str, torch.Tensor] = {}
        names = _conv_names(self.backbone)
        for index, conv in enumerate(self.convs):
            if index in self._pool_before:
                x = torch.max_pool2d(x, 2)
            x = conv(x)
            # only what was asked for is kept: the backward pass does not need the other pre-activations
            if "conv" + names[index] in self.layers:
                found["conv" + names[index]] = x
            x = torch.relu(x)
            if "relu" + names[index] in self.layers:
                found["relu" + names[index]] = x
        return tuple(found[layer] for layer in self.layers)


def last_layer(backbone: Backbone) -> str:
    """Return the deepest convolution's name: ``conv5_4`` of VGG19, ``conv5_3`` of VGG16.

    Raises:
        ConfigError: for an unknown backbone.
    """
    return "conv" + _conv_names(backbone)[-1]


def conv_index(backbone: Backbone, layer: str) -> int:
    """Return the number, from 0, of the convolution a layer (``conv3_2``, ``relu3_2``) belongs to.

    Raises:
        ConfigError: for an unknown backbone or layer.
    """
    names = _conv_names(backbone)
    kind, name = layer[:4], layer[4:]
    if kind not in ("conv", "relu") or name not in names:
        raise ConfigError(
            f"{backbone} has no layer {layer!r}", remedy=f"choose one of conv{names[0]} to conv{names[-1]}"
        )
    return names.index(name)


def download_vgg_weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Fetch torchvision's ImageNet weights, the first time over the network; as :func:`read_vgg_weights`.

    Raises:
        SRCycError: when torchvision is not installed, or the download fails.
    """
    try:
        from torchvision.models import VGG16_Weights, VGG19_Weights
    except ImportError as error:
        raise SRCycError(
            f"the weights of {backbone} come from torchvision, which cannot be imported ({error})",
            remedy="install torchvision, or name a local weight file",
        ) from error
    published = VGG19_Weights.IMAGENET1K_V1 if backbone == "vgg19" else VGG16_Weights.IMAGENET1K_V1
    try:
        state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise SRCycError(
            f"the weights of {backbone} could not be downloaded from {published.url} ({error})",
            remedy="connect this machine for the first use, or name a local weight file",
        ) from error
    return _select_convs(state, backbone, published.url)


def read_vgg_weights(path: str | Path, backbone: Backbone) -> dict[str, torch.Tensor]:
    """Read a backbone's convolutions from a local file, as float32 under ``0.weight``, ``0.bias``, …

    The suffix tells the format: ``.pth``/``.pt`` (a state dict; no other pickled object is accepted),
    ``.safetensors`` or ``.npz``. Keys are torchvision's (``features.0.weight``, with or without the
    classifier) or ``vgg16.conv0.weight``, counted over the convolutions (other networks may lie beside them).
    Loading is strict: the file must hold every convolution of the backbone, of the right shape, and no
    further one.

    Raises:
        ModelError: when the file is missing, unreadable, or not of this backbone.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ModelError(
            f"{path} is no weight file of a known format", remedy=f"give one of {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise ModelError(
            f"the weight file {path} does not exist", remedy=f"give the path of {backbone}'s ImageNet weights"
        )
    try:
        tensors = reader(path)
    except Exception as error:  # a foreign file can fail anywhere inside its reader
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} cannot be read as weights of {backbone} ({reason})", remedy="fetch it again"
        ) from error
    return _select_convs(tensors, backbone, path)


def _read_torch(path: Path) -> Mapping[str, torch.Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}, not a state dict")
    return state


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_npz(path: Path) -> Mapping[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        # a shared file may hold whole other networks: only what can belong to a VGG is decompressed
        return {key: torch.from_numpy(archive[key]) for key in archive.files if _KEY.fullmatch(key)}


_READERS: dict[str, Callable[[Path], Mapping[str, torch.Tensor]]] = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}
_KEY = re.compile(r"(?:features\.|(?P<network>vgg16|vgg19)\.conv)(?P<index>\d+)\.(?P<kind>weight|bias)")


def _select_convs(
    tensors: Mapping[str, torch.Tensor], backbone: Backbone, source: str | Path
) -> dict[str, torch.Tensor]:
    """Rename to ``<convolution>.weight|bias`` and check that they are exactly the backbone's."""
    shapes = _conv_shapes(backbone)
    # torchvision counts convolutions, activations and poolings together
    starts = _block_starts(backbone)
    from_torchvision = {2 * n + sum(start <= n for start in starts): n for n in range(len(shapes))}

    selected: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(str(key))
        if match is None or match["network"] not in (None, backbone):
            continue
        index = int(match["index"])
        number = index if match["network"] else from_torchvision.get(index, -1)
        name = f"{number}.{match['kind']}"
        known = 0 <= number < len(shapes) and name not in selected and isinstance(tensor, torch.Tensor)
        if not known or tensor.shape != shapes[number][: 4 if match["kind"] == "weight" else 1]:
            shape = tuple(getattr(tensor, "shape", ()))
            raise ModelError(
                f"{source} holds {key} of shape {shape}, which does not belong to {backbone}",
                remedy=f"give a file with {backbone}'s weights",
            )
        selected[name] = tensor.to(torch.float32)
        if not bool(torch.isfinite(selected[name]).all()):
            raise ModelError(f"{source} holds NaN or infinite values in {key}", remedy="fetch it again")
    missing = [
        f"{n}.{kind}"
        for n in range(len(shapes))
        for kind in ("weight", "bias")
        if f"{n}.{kind}" not in selected
    ]
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} of the {2 * len(shapes)} convolution tensors of {backbone}",
            remedy=f"give a file with {backbone}'s weights",
        )
    return selected


def _conv_names(backbone: Backbone) -> list[str]:
    if backbone not in get_args(Backbone):
        raise ConfigError(
            f"the backbone is {backbone!r}", remedy=f"choose one of {', '.join(get_args(Backbone))}"
        )
    blocks = enumerate(_BLOCK_DEPTHS[backbone], start=1)
    return [f"{block}_{number}" for block, depth in blocks for number in range(1, depth + 1)]


def _conv_shapes(backbone: Backbone) -> list[tuple[int, int, int, int]]:
    """Return the OIHW weight shape of every convolution."""
    widths = [
        width
        for width, depth in zip(_BLOCK_WIDTHS, _BLOCK_DEPTHS[backbone], strict=True)
        for _ in range(depth)
    ]
    return [(width, before, 3, 3) for before, width in zip([3, *widths], widths, strict=False)]


def _block_starts(backbone: Backbone) -> frozenset[int]:
    """Return the convolutions that follow a max pooling: the first of every block but the first block."""
    return frozenset(
        index for index, name in enumerate(_conv_names(backbone)) if name.endswith("_1") and index > 0
    )
