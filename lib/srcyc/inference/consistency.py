"""Data consistency of whole volumes, in slabs: the acquisition operator's work without its full-size copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from srcyc.acquisition import Acquisition

#: Fine voxels per slab.
_SLAB_VOXELS = 2**22
_SLICE_AXIS = 2


@dataclass(frozen=True)
class SlabAcquisition:
    """:class:`Acquisition` for one large volume ``(I, J, K)``, slices stacked along K.

    The operator is separable, so it is split into the part within planes of the first axis, done slab by slab, and
    the part along the first axis, done on what the first part has left.

    Attributes:
        fine_shape: of the super-resolved volume.
        scan_shape: of the scan.
        thickness_ratio: slice thickness over slice spacing.
    """

    fine_shape: tuple[int, int, int]
    scan_shape: tuple[int, int, int]
    thickness_ratio: float = 1.0

    @torch.inference_mode()
    def correct_(self, fine: Tensor, scan: Tensor, tolerance: float) -> tuple[float, float]:
        """Replace ``fine`` by ``fine + A^+ d``, in place, with d what ``scan - A fine`` exceeds the tolerance by.

        A smaller difference may be the scan's noise; to force it to zero would copy the noise of each thick slice
        into all the thin ones it covers, as bands.

        Args:
            fine: of ``fine_shape``.
            scan: of ``scan_shape``.
            tolerance: difference that every voxel of the scan may keep, in the unit of both.

        Returns:
            the relative residual ``||A fine - scan|| / ||scan||`` before and after.
        """
        difference = scan - self.apply(fine)
        correction = self._across().pseudo_inverse(torch.nn.functional.softshrink(difference, tolerance))
        for part, within in self._slabs():
            fine[part] += within.pseudo_inverse(correction[part])
        return _relative(difference, scan), self.residual(fine, scan)

    def residual(self, fine: Tensor, scan: Tensor) -> float:
        """Give the relative residual ``||A fine - scan|| / ||scan||``."""
        return _relative(scan - self.apply(fine), scan)

    @torch.inference_mode()
    def apply(self, fine: Tensor) -> Tensor:
        """A fine: ``fine_shape`` -> ``scan_shape``."""
        planes = fine.new_empty(self.fine_shape[0], *self.scan_shape[1:])
        for part, within in self._slabs():
            planes[part] = within.apply(fine[part])
        return self._across().apply(planes)

    def _across(self) -> Acquisition:
        fine = (self.fine_shape[0], *self.scan_shape[1:])
        return Acquisition(fine, self.scan_shape, self.thickness_ratio, _SLICE_AXIS)

    def _slabs(self) -> Iterator[tuple[slice, Acquisition]]:
        n, j, k = self.fine_shape
        depth = max(1, _SLAB_VOXELS // (j * k))
        for start in range(0, n, depth):
            part = slice(start, min(n, start + depth))
            size = part.stop - part.start
            yield (
                part,
                Acquisition((size, j, k), (size, *self.scan_shape[1:]), self.thickness_ratio, _SLICE_AXIS),
            )


def _relative(difference: Tensor, scan: Tensor) -> float:
    """Give ``||difference|| / ||scan||``, or the numerator for a scan of zeros."""
    norm = float(torch.linalg.vector_norm(scan, dtype=torch.float64))
    return float(torch.linalg.vector_norm(difference, dtype=torch.float64)) / (norm or 1.0)
