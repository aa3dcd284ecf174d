"""Marked regions (lesions, a tumour): how much of their contrast to what surrounds them a result keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from srcyc.errors import DataError
from srcyc.evaluation.metrics import Image, Mask
from srcyc.volumes.geometry import Grid
from srcyc.volumes.labels import resample_labels
from srcyc.volumes.volume import Volume

#: Voxels that a region has at least to count as a large one.
LARGE = 20
#: The surround is a ring between these distances from a region, voxels: the nearest ones share its voxels.
_RING = (1, 3)
#: Voxels that a surround has at least.
_LEAST_SURROUND = 8


class Kept(NamedTuple):
    """Share of the regions' contrast that is left, 1: all of it; None where there is no such region.

    Attributes:
        kept: of regions of :data:`LARGE` voxels and more.
        kept_small: of smaller ones.
    """

    kept: float | None
    kept_small: float | None


class _Region(NamedTuple):
    inside: tuple[np.ndarray, ...]
    around: tuple[np.ndarray, ...]

    def contrast(self, image: Image) -> float:
        """Mean inside less mean around, the image's unit."""
        return float(image[self.inside].mean(dtype=np.float64) - image[self.around].mean(dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Regions:
    """Connected regions of a label map on one grid, each with its surround.

    Attributes:
        large: of :data:`LARGE` voxels and more.
        small: the others.
    """

    large: tuple[_Region, ...]
    small: tuple[_Region, ...]

    @classmethod
    def of(cls, labels: Volume, grid: Grid, head: Mask, axis: int) -> Regions:
        """Find the regions.

        Args:
            labels: any label but 0 marks a region; on any grid.
            grid: on which images are judged.
            head: voxels of it that may be a surround.
            axis: array axis of the slices. Surrounds lie in their region's slices: other slices may be brighter.

        Raises:
            VolumeError: no label map, or one that lies elsewhere.
            DataError: no region has a surround in the head.
        """
        marked = resample_labels(labels, grid).data[0] != 0
        within = ndimage.generate_binary_structure(3, 1)
        within[tuple(slice(None) if other != axis else [0, 2] for other in range(3))] = False
        free = head & ~ndimage.binary_dilation(marked, within, iterations=_RING[0])
        numbered, _ = ndimage.label(marked, structure=np.ones((3, 3, 3)))
        large: list[_Region] = []
        small: list[_Region] = []
        for number, place in enumerate(ndimage.find_objects(numbered), start=1):
            box = tuple(
                slice(max(0, part.start - _RING[1]), min(n, part.stop + _RING[1]))
                for part, n in zip(place, marked.shape, strict=True)
            )
            own = numbered[box] == number
            ring = ndimage.binary_dilation(own, within, iterations=_RING[1]) & free[box]
            if ring.sum() < _LEAST_SURROUND:
                continue
            inside, around = (
                tuple(index + part.start for index, part in zip(np.nonzero(where), box, strict=True))
                for where in (own, ring)
            )
            (large if len(inside[0]) >= LARGE else small).append(_Region(inside, around))
        if not large and not small:
            raise DataError(
                f"{labels.source or 'regions'}: marks no region inside the head",
                remedy="give a label map of this scan's regions",
            )
        return cls(tuple(large), tuple(small))

    def kept(self, image: Image, reference: Image) -> Kept:
        """Compare the contrasts of an image with those of a reference, both on the regions' grid, in one unit.

        The slope of the regression through zero, so that a region counts by its contrast.
        """
        return Kept(*(_slope(regions, image, reference) for regions in (self.large, self.small)))


def _slope(regions: Iterable[_Region], image: Image, reference: Image) -> float | None:
    pairs = [(region.contrast(image), region.contrast(reference)) for region in regions]
    weight = sum(own * own for _, own in pairs)
    return sum(got * own for got, own in pairs) / weight if weight else None
