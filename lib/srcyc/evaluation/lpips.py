"""LPIPS, how different two images look: distance of deep features, fitted to what people see."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcyc.errors import DataError, extra
from srcyc.evaluation.metrics import Image, Mask, bounding_box
from srcyc.losses.imagenet import imagenet_features, load_imagenet
from srcyc.networks.weights import read_tensors, require_shapes

#: Fetch AlexNet's weights with torchvision on first use, instead of reading a local file.
TORCHVISION = "torchvision"
#: Pixels along each edge of a slice that survive AlexNet's strides and poolings.
_LEAST_EDGE = 31
#: Slices taken along each axis at most, evenly spaced; neighbours look alike.
_SLICES_PER_AXIS = 24
#: Pixels that go through the network at once.
_BATCH_PIXELS = 2**19


class LPIPS:
    """Learned perceptual image patch similarity (Zhang et al. 2018, arXiv:1801.03924), v0.1, AlexNet; less is better.

    The metric is made for colour pictures. A volume is judged by the mean over sagittal, coronal and axial slices
    (array axes) of the mask's bounding box: at most 24 per axis, evenly spaced, grey repeated to RGB, intensities 0
    to ``peak`` mapped to [-1, 1] and what lies beyond clipped, as on a screen. Slices with an edge below 31 voxels
    are too small for the network and are left out.

    Args:
        weights: ``"torchvision"`` (fetched on first use, then kept in torch's cache), or a local file: see
            :func:`srcyc.losses.imagenet.load_imagenet`. It may hold the linear heads too (``alexnet.lin0.weight`` …);
            else they are those of the package ``lpips``.
        device: where to compute.

    Raises:
        ModelError: the file is missing, unreadable, or does not hold exactly AlexNet's convolutions.
        MissingExtraError: the package ``lpips`` or torchvision is not installed.
        SRCycError: the download fails.
    """

    def __init__(self, weights: str | Path, device: torch.device | None = None) -> None:
        local = None if str(weights) == TORCHVISION else Path(weights)
        self._device = device or torch.device("cpu")
        self._network = _build(local).to(self._device)

    @staticmethod
    def fits(shape: tuple[int, ...]) -> bool:
        """Tell whether a volume ``(I, J, K)`` has slices that are large enough."""
        return sorted(shape)[1] >= _LEAST_EDGE

    @torch.no_grad()
    def __call__(self, image: Image, truth: Image, mask: Mask | None, peak: float) -> float:
        """Compare two volumes.

        Args:
            image: ``(I, J, K)``; 0 is black.
            truth: ``(I, J, K)``, the same intensity unit.
            mask: what matters; default: everything.
            peak: white, the data range.

        Returns:
            0 for equal volumes; a strong blur is at about 0.5.

        Raises:
            DataError: no slice is large enough.
        """
        if not self.fits(truth.shape):
            size = " x ".join(map(str, truth.shape))
            raise DataError(
                f"LPIPS needs {_LEAST_EDGE} voxels along two axes and the truth has {size}",
                remedy="give a larger scan",
            )
        marked = np.ones(truth.shape, bool) if mask is None or not mask.any() else mask
        box = bounding_box(marked, margin=0, least=_LEAST_EDGE)
        pair = [
            torch.from_numpy(np.ascontiguousarray(x[box], dtype=np.float32)).to(self._device)
            for x in (image, truth)
        ]
        shown = [(2 * x / peak - 1).clamp(-1, 1) for x in pair]
        distances: list[Tensor] = []
        for axis in range(3):
            extent = shown[0].shape[axis]
            edges = [n for other, n in enumerate(shown[0].shape) if other != axis]
            if min(edges) < _LEAST_EDGE:
                continue
            step = math.ceil(extent / _SLICES_PER_AXIS)
            first = (extent - 1) % step // 2
            # (S, 1, H, W)
            stacks = [x.movedim(axis, 0)[first::step, None] for x in shown]
            batch = max(1, _BATCH_PIXELS // (edges[0] * edges[1]))
            for a, b in zip(*(x.split(batch) for x in stacks), strict=True):
                distance = self._network(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
                distances.append(distance.flatten())
        return float(torch.cat(distances).mean(dtype=torch.float64))


def _build(local: Path | None) -> Any:
    """Make the package's network, with AlexNet's weights from a file or from torchvision."""
    with extra("perceptual"):
        import lpips
    features = imagenet_features("alexnet")
    load_imagenet(features, "alexnet", local)
    # It builds through a deprecated argument of torchvision, and draws random weights that are replaced.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    for part in network.net.children():
        for number, layer in part.named_children():
            layer.load_state_dict(features[int(number)].state_dict())
    if local is not None and (heads := read_tensors(local, r"alexnet\.lin\d+\.weight")):
        own = {f"alexnet.lin{n}.weight": head.model[1].weight for n, head in enumerate(network.lins)}
        require_shapes(heads, own, f"{local}: not the heads of LPIPS for AlexNet")
        for key, weight in own.items():
            weight.data.copy_(heads[key])
    return network.eval().requires_grad_(False)
