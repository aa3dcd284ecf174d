"""The residual of one whole upscaled volume: which part of it has to go through the network, and in which slabs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from srcyc.errors import ConfigError, SRCycError
from srcyc.inference.tiling import SMALLEST_SLAB, Progress, SlabNetwork

#: Normalised intensity below which a voxel counts as background: interpolation leaves ripples in empty space.
_RIPPLE = 1e-5
#: Voxels at an image's border that answer to a constant differently from its inside (the last layer pads zeros).
_EDGE = 3
#: Bytes that a slab's features may take, so that all layers find them in the processor's cache; and on a GPU.
_CACHE_BYTES, _GPU_BYTES = 16 * 2**20, 512 * 2**20
#: Voxels that are scanned at once for simple sums.
_PART_VOXELS = 2**22
#: Bytes of whole-volume buffers per output voxel: upscaled image, residual, and two while resampling and converting.
_VOLUME_BYTES = 16


@dataclass(frozen=True)
class Refiner:
    """Applies a network to whole volumes within a memory budget.

    Attributes:
        network: for one device, precision and sampling.
        max_memory: bytes that one call may use; None: whatever is fastest.
        tile: planes per slab, if not chosen from the budget.
    """

    network: SlabNetwork
    max_memory: int | None = None
    tile: int | None = None

    @torch.inference_mode()
    def residual(self, upscaled: Tensor, *, progress: Progress | None = None) -> Tensor:
        """Estimate the residual of ``upscaled`` ``(I, J, K)``, fp32 on the CPU, normalised intensity.

        Background around the head, exactly flat in the scan, answers to the network like any flat image: that answer
        is computed once on a small one, and only the box around the head goes through the network.

        Returns:
            ``(I, J, K)``, fp32 on the CPU.

        Raises:
            ConfigError: ``max_memory`` is too small for this volume.
            VolumeError: an axis under 3 voxels.
        """
        slab = self.slab(upscaled.shape)
        background = float(upscaled[0, 0, 0])
        head = _bounding_box(upscaled, background)
        reach = self.network.latency
        kept = [_grown(part, reach, n) for part, n in zip(head, upscaled.shape, strict=True)]
        # One more margin: the zero padding of the last layer must stay outside of what is kept.
        cut = [_grown(part, _EDGE, n) for part, n in zip(kept, upscaled.shape, strict=True)]
        if all(part == slice(0, n) for part, n in zip(cut, upscaled.shape, strict=True)):
            return self.network(upscaled, torch.empty_like(upscaled), slab=slab, progress=progress)
        residual = self._flat_answer(background, upscaled.shape)
        box = upscaled[tuple(cut)]
        answer = self.network(box, box.new_empty(box.shape), slab=slab, progress=progress)
        inner = [slice(k.start - c.start, k.stop - c.start) for k, c in zip(kept, cut, strict=True)]
        residual[tuple(kept)] = answer[tuple(inner)]
        return residual

    def slab(self, shape: torch.Size | tuple[int, ...]) -> int:
        """Choose the planes per slab for an image ``(I, J, K)``.

        Raises:
            ConfigError: ``max_memory`` is too small even for the smallest slabs.
        """
        n, j, k = shape
        per_plane, held = self.network.slab_bytes(j * k), self.network.held_bytes(j * k)
        target = _CACHE_BYTES if self.network.device.type == "cpu" else _GPU_BYTES
        wanted = self.tile or target // (j * k * self.network.features * self.network.dtype.itemsize)
        slab = min(max(SMALLEST_SLAB, wanted), n)
        if self.max_memory is None:
            return slab
        fixed = _VOLUME_BYTES * n * j * k + held
        affordable = (self.max_memory - fixed) // per_plane
        if affordable < min(SMALLEST_SLAB, n):
            least = (fixed + SMALLEST_SLAB * per_plane) / 1e9
            raise ConfigError(
                f"max memory {self.max_memory / 1e9:g} GB: an output of {n} x {j} x {k} voxels needs "
                f"{least:.2g} GB; allow more or ask for a coarser target spacing."
            )
        return int(min(slab, affordable))

    def _flat_answer(self, value: float, shape: torch.Size) -> Tensor:
        """Give the residual of an image that is ``value`` everywhere, from that of a small one."""
        small = [min(n, 2 * _EDGE + 1) for n in shape]
        image = torch.full(small, value)
        answer = self.network(image, torch.empty_like(image), slab=SMALLEST_SLAB)
        for axis, n in enumerate(shape):
            index = torch.arange(n)
            # Voxels near an end stay at their distance from it, all others are like the middle one.
            low, high = index.clamp(max=_EDGE), small[axis] - (n - index).clamp(max=_EDGE)
            answer = answer.index_select(
                axis, torch.where(index < n - _EDGE, low, high) if n > small[axis] else index
            )
        return answer


def squared_norm(residual: Tensor) -> float:
    """Sum of squares in float64, part by part: no float64 copy of a whole volume.

    Raises:
        SRCycError: it is not finite.
    """
    total = sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in _parts(residual))
    if not total < float("inf"):
        raise SRCycError("the network's output is not finite; run it with --precision fp32.")
    return total


def _bounding_box(image: Tensor, background: float) -> list[slice]:
    """Find where an image differs from ``background``, per axis."""
    planes, rows, columns = [], [], []
    for part in _parts(image):
        differs = (part - background).abs_() > _RIPPLE
        in_rows = differs.any(dim=2)
        planes.append(in_rows.any(dim=1))
        rows.append(in_rows.any(dim=0))
        columns.append(differs.any(dim=0).any(dim=0))
    boxes = []
    for occupied in (torch.cat(planes), torch.stack(rows).any(dim=0), torch.stack(columns).any(dim=0)):
        places = occupied.nonzero().flatten()
        boxes.append(slice(int(places[0]), int(places[-1]) + 1) if places.numel() else slice(0, 0))
    return boxes


def _parts(image: Tensor) -> tuple[Tensor, ...]:
    """Split ``(I, J, K)`` along I into parts of a few million voxels."""
    return image.split(max(1, _PART_VOXELS // image[0].numel()))


def _grown(part: slice, margin: int, n: int) -> slice:
    return slice(max(0, part.start - margin), min(n, part.stop + margin))
