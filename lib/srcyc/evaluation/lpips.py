"""LPIPS, how different two images look: distance of deep features, fitted to what people see."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srcyc.errors import DataError, ModelError, SRCycError
from srcyc.evaluation.metrics import Image, Mask, bounding_box

#: Fetch AlexNet's weights with torchvision on first use, instead of reading a local file.
TORCHVISION = "torchvision"
#: Pixels along each edge of a slice that survive AlexNet's strides and poolings.
_LEAST_EDGE = 31
#: Slices taken along each axis at most, evenly spaced; neighbours look alike.
_SLICES_PER_AXIS = 24
#: Pixels that go through the network at once.
_BATCH_PIXELS = 2**19
#: Our numbering of AlexNet's five convolutions, torchvision's, and where the package `lpips` puts them.
_CONVOLUTIONS = {0: "slice1.0", 3: "slice2.3", 6: "slice3.6", 8: "slice4.8", 10: "slice5.10"}
_HEADS = 5
_KEY = re.compile(
    r"features\.(?P<feature>\d+)\.(?P<kind>weight|bias)"
    r"|alexnet\.(?:conv(?P<conv>\d+)\.(?P<part>weight|bias)|lin(?P<head>\d+)\.weight)"
)


class LPIPS:
    """Learned perceptual image patch similarity (Zhang et al. 2018, arXiv:1801.03924), v0.1, AlexNet; less is better.

    The metric is made for colour pictures. A volume is judged by the mean over sagittal, coronal and axial slices
    (array axes) of the mask's bounding box: at most 24 per axis, evenly spaced, grey repeated to RGB, intensities 0
    to ``peak`` mapped to [-1, 1] and what lies beyond clipped, as on a screen. Slices with an edge below 31 voxels
    are too small for the network and are left out.

    Args:
        weights: ``"torchvision"`` (fetched on first use, then kept in torch's cache), or a local file: ``.pth`` or
            ``.pt`` (torchvision's AlexNet, ``features.0.weight`` …) or ``.npz`` (``alexnet.conv0.weight`` … and, if
            it has them, the linear heads ``alexnet.lin0.weight`` …; other networks may lie beside them). Heads that
            the file lacks are those of the package ``lpips``.
        device: where to compute.

    Raises:
        ModelError: the file is missing, unreadable, or does not hold exactly AlexNet's convolutions.
        SRCycError: the package ``lpips`` is not installed, or the download fails.
    """

    def __init__(self, weights: str | Path, device: torch.device | None = None) -> None:
        local = None if str(weights) == TORCHVISION else Path(weights)
        tensors = _read(local) if local else {}
        self._device = device or torch.device("cpu")
        self._network = _build(download=local is None)
        if local:
            _load(self._network, tensors, local)
        self._network.to(self._device)

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


def _build(*, download: bool) -> Any:
    """Make the package's network, without ImageNet weights unless they are to be fetched."""
    try:
        import lpips
    except ImportError as error:
        raise SRCycError(
            f"LPIPS needs the package lpips, which cannot be imported ({error})",
            remedy="install it with 'pip install lpips', or leave LPIPS out",
        ) from error
    # It builds through a deprecated argument of torchvision, draws random weights that are replaced, and a download
    # writes to stdout (where a JSON answer may belong) and stderr.
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=not download, verbose=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
            raise SRCycError(
                f"AlexNet's weights could not be downloaded ({error})",
                remedy="connect this machine for the first use, or name a local weight file",
            ) from error
    return network.eval().requires_grad_(False)


def _read(path: Path) -> Mapping[str, Any]:
    """Read what may belong to AlexNet from a weight file."""
    if path.suffix.lower() not in (".npz", ".pth", ".pt"):
        raise ModelError(f"{path}: no weight file of a known format", remedy="give a .npz, .pth or .pt file")
    if not path.is_file():
        raise ModelError(f"{path}: does not exist", remedy="give the path of AlexNet's ImageNet weights")
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: _tensor(archive[key]) for key in archive.files if _KEY.fullmatch(key)}
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tensor for key, tensor in state.items() if _KEY.fullmatch(str(key))}
    except Exception as error:  # a foreign file can fail anywhere inside its reader
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path}: cannot be read as weights of AlexNet ({reason})", remedy="fetch it again"
        ) from error


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _load(network: Any, tensors: Mapping[str, Any], path: Path) -> None:
    """Put a file's tensors into the network; every convolution must be there, and all heads or none."""
    state = {}
    for key, tensor in tensors.items():
        name = _name(key)
        if name is None or not isinstance(tensor, Tensor):
            raise ModelError(
                f"{path}: holds {key}, which is not AlexNet's", remedy="give AlexNet's ImageNet weights"
            )
        state[name] = tensor.float()
        if not bool(torch.isfinite(state[name]).all()):
            raise ModelError(f"{path}: holds NaN or infinite values in {key}", remedy="fetch it again")
    own = dict(network.state_dict())
    needed = [f"net.{place}.{kind}" for place in _CONVOLUTIONS.values() for kind in ("weight", "bias")]
    heads = [f"lin{n}.model.1.weight" for n in range(_HEADS)]
    if any(head in state for head in heads):
        needed += heads
    for name in needed:
        if name not in state or state[name].shape != own[name].shape:
            found = tuple(state[name].shape) if name in state else "none"
            raise ModelError(
                f"{path}: not the weights of AlexNet (a tensor of shape "
                f"{tuple(own[name].shape)} is needed for {name}, found {found})",
                remedy="give AlexNet's ImageNet weights",
            )
    # The package registers each head under two names.
    aliases = {name.replace("lin", "lins.", 1): tensor for name, tensor in state.items() if name in heads}
    network.load_state_dict({**own, **state, **aliases}, strict=True)


def _name(key: str) -> str | None:
    """Translate a file's key to the package's."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    if match["head"]:
        return f"lin{match['head']}.model.1.weight" if int(match["head"]) < _HEADS else None
    if match["conv"]:
        places = list(_CONVOLUTIONS.values())
        number = int(match["conv"])
        return f"net.{places[number]}.{match['part']}" if number < len(places) else None
    place = _CONVOLUTIONS.get(int(match["feature"]))
    return f"net.{place}.{match['kind']}" if place else None
