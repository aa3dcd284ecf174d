"""Label maps: told from scans, and brought to a result's grid."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from srcyc.errors import LabelMapError, VolumeError
from srcyc.volumes.geometry import Grid, thick_axis
from srcyc.volumes.volume import Volume, volume_stem

#: What the name of a label map ends in: BIDS suffixes, and what FreeSurfer, ITK-SNAP and 3D Slicer write.
_NAME = re.compile(
    r"(^|[_\-.+])(dseg|probseg|mask|masks|seg|segmentation|label|labels|labelmap|aseg|aparc|lesions?|roi)$",
    re.IGNORECASE,
)
#: Different values that a label map has at most: atlases have some hundred, FreeSurfer's ids are up to 14175.
_MOST_LABELS = 4096
#: Voxels that are looked at first.
_SAMPLE = 100_000
#: Values are counted in a table where they span less.
_WIDEST = 1e6
#: Slices in which neighbours are compared.
_SLICES = 16
#: Voxels around a label in which its distances are computed.
_MARGIN = 2
#: Distance of what no label reaches.
_OUTSIDE = -1e30
#: Share of the neighbours within slices, off the background, that are equal in a label map.
_FLAT = 0.5

_Array = npt.NDArray[np.float32]


def why_label_map(volume: Volume) -> str | None:
    """Say in a clause why a volume is a label map and no scan; None if it is a scan.

    Its header may say so, its name, or its voxels: whole numbers, few of them, in flat regions. A constant is none.
    """
    data = volume.data[0]
    data = data[np.isfinite(data)] if not np.isfinite(data).all() else data
    name = None if volume.source is None else volume_stem(volume.source)
    named = name is not None and _NAME.search(name) is not None
    if named and data.size and data.min() >= 0 and data.max() <= 1 and data.min() < data.max():
        return f"its name says so, and its values lie between {data.min():g} and {data.max():g}"
    if not _are_whole(data):
        return None
    number, background = _counted(data)
    if not 1 < number <= _MOST_LABELS:
        return None
    few = f"{number} different values"
    if volume.labels is not None:
        return f"{volume.labels}, and it has {few}"
    if number == 2:
        return few
    if _flatness(volume, background) >= _FLAT * (0.5 if named else 1.0):
        return f"{'its name says so, and it has' if named else 'it has'} {few} in flat regions"
    return None


def require_scan(volume: Volume) -> None:
    """Refuse a label map where a scan is wanted.

    Raises:
        LabelMapError: it is one.
    """
    if why := why_label_map(volume):
        raise LabelMapError(
            f"{volume.source or 'volume'}: a label map, no scan ({why})",
            remedy="give the scan itself (labels brings a label map to its result's grid, force takes it for a scan)",
            options=("labels", "force"),
        )


def require_labels(volume: Volume) -> None:
    """Refuse a scan where a label map is wanted.

    Raises:
        VolumeError: values that are no labels, or as many as a scan has.
    """
    name, data = str(volume.source or "labels"), volume.data[0]
    if not np.isfinite(data).all() or not _are_whole(data):
        raise VolumeError(f"{name}: its voxels are no whole numbers, so no labels", remedy="give a label map")
    number = _counted(data)[0]
    if number > 1 and why_label_map(volume) is None:
        raise VolumeError(
            f"{name}: {number} different values and no flat regions, so no labels", remedy="give a label map"
        )


def resample_labels(labels: Volume, grid: Grid) -> Volume:
    """Bring a label map to another grid by shape-based interpolation: the label whose border is farthest away wins.

    Between slices the borders move evenly, where the nearest voxel would make steps as high as a slice (Raya, Udupa:
    Shape-based interpolation of multidimensional objects, IEEE Trans. Medical Imaging 9(1), 1990). ITK's own
    interpolations of labels make the same steps (linear), or wear small labels away (Gaussian).

    Args:
        labels: ``(1, I, J, K)`` whole numbers, on any grid.
        grid: of the result.

    Returns:
        whole numbers on ``grid``; 0 outside the label map's field of view.

    Raises:
        VolumeError: no label map, or one that lies elsewhere.
    """
    require_labels(labels)
    if not _overlap(labels.grid, grid):
        raise VolumeError(
            f"{labels.source or 'labels'}: lies outside the scan's field of view",
            remedy="give the label map of this scan",
        )
    return replace(
        labels,
        data=_interpolated(labels.data[0], labels.grid, grid)[None],
        affine=grid.affine,
        source=None,
        padding=None,
        warnings=(),
    )


def _interpolated(data: _Array, own: Grid, wanted: Grid) -> _Array:
    """Give the label with the largest signed distance at every voxel of a grid."""
    step = np.linalg.inv(own.affine) @ wanted.affine  # index of the result -> index of the label map
    best = np.full(wanted.shape, _OUTSIDE, np.float32)
    found = np.zeros(wanted.shape, np.float32)
    axis = thick_axis(own)
    for value in np.unique(data):
        inside = data == value
        box = _box(inside)
        target = _reached(box, step, wanted.shape)
        if any(part.stop <= part.start for part in target):
            continue
        distance = sitk.GetImageFromArray(
            np.ascontiguousarray(_signed_distance(inside[box], own.spacing, axis).T)
        )
        distance.SetSpacing(own.spacing)
        here = _sampled(distance, step, [part.start for part in box], target)
        wins = here > best[target]
        best[target][wins] = here[wins]
        found[target][wins] = value
    return found


def _signed_distance(inside: npt.NDArray[np.bool_], spacing: tuple[float, float, float], axis: int) -> _Array:
    """Give the distance within slices to the nearest voxel outside a label, minus that to the nearest inside it, mm.

    Towards a slice without any of it, or without anything else, a label ends half way, as it is.
    """
    signed = np.empty(inside.shape, np.float32)
    slices, marked = np.moveaxis(signed, axis, 0), np.moveaxis(inside, axis, 0)
    steps = [step for other, step in enumerate(spacing) if other != axis]
    mixed = [k for k, part in enumerate(marked) if part.any() and not part.all()]
    for k in mixed:
        slices[k] = distance_transform_edt(marked[k], steps) - distance_transform_edt(~marked[k], steps)
    for k, part in enumerate(marked):
        if k not in mixed:
            like = np.abs(slices[min(mixed, key=lambda other: abs(other - k))]) if mixed else spacing[axis]
            slices[k] = like if part.all() else -like
    return signed


def _box(inside: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Give the box of a label, with a margin: the nearest voxel that is not of it is in there too."""
    i, j, k = (
        slice(max(0, int(places[0]) - _MARGIN), int(places[-1]) + 1 + _MARGIN)
        for places in (np.flatnonzero(inside.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1)))
    )
    return i, j, k


def _reached(
    box: tuple[slice, ...], step: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """Give the part of the result that a box of the label map covers."""
    ends = np.array(np.meshgrid(*[(part.start - 0.5, part.stop - 0.5) for part in box])).reshape(3, -1)
    corners = np.linalg.inv(step) @ np.vstack([ends, np.ones(8)])
    i, j, k = (
        slice(max(0, math.floor(low)), min(n, math.ceil(high) + 1))
        for low, high, n in zip(corners[:3].min(axis=1), corners[:3].max(axis=1), shape, strict=True)
    )
    return i, j, k


def _sampled(
    image: sitk.Image, step: npt.NDArray[np.float64], start: list[int], target: tuple[slice, ...]
) -> _Array:
    """Sample an image that begins at an index of the label map linearly at a part of the result."""
    first = step[:3, :3] @ [part.start for part in target] + step[:3, 3] - start
    spacing = np.array(image.GetSpacing())
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((spacing[:, None] * step[:3, :3]).ravel().tolist())
    transform.SetTranslation((spacing * first).tolist())
    sampled = sitk.Resample(
        image,
        [part.stop - part.start for part in target],
        transform,
        sitk.sitkLinear,
        [0.0, 0.0, 0.0],
        [1.0, 1.0, 1.0],
        np.eye(3).ravel().tolist(),
        _OUTSIDE,
        sitk.sitkFloat32,
    )
    return sitk.GetArrayFromImage(sampled).T


def _overlap(first: Grid, second: Grid) -> bool:
    """Tell whether the fields of view meet, by their corners in the first one's index space."""
    corners = first.world_to_index(second.field_of_view)
    ends = np.array(first.shape) - 0.5
    return bool((corners.max(axis=0) > -0.5).all() and (corners.min(axis=0) < ends).all())


def _are_whole(data: _Array) -> bool:
    """Tell whether all values are whole numbers; a sample answers for most scans."""
    flat = data.ravel()
    sample = flat[:: max(1, flat.size // _SAMPLE)]
    return bool((sample == np.rint(sample)).all() and (flat == np.rint(flat)).all())


def _counted(whole: _Array) -> tuple[int, float]:
    """Give how many different values there are, and the most frequent one."""
    low, high = (float(end) for end in (whole.min(), whole.max()))
    if high - low > _WIDEST:
        values, counts = np.unique(whole, return_counts=True)
        return values.size, float(values[counts.argmax()])
    counts = np.bincount((whole - low).astype(np.int64).ravel())
    return int(np.count_nonzero(counts)), low + float(counts.argmax())


def _flatness(volume: Volume, background: float) -> float:
    """Give the share of neighbours within some slices that are equal, pairs of background aside."""
    slices = np.moveaxis(volume.data[0], thick_axis(volume.grid), 0)
    equal = pairs = 0
    for image in slices[:: max(1, len(slices) // _SLICES)]:
        for first, second in ((image[:-1], image[1:]), (image[:, :-1], image[:, 1:])):
            inside = ((first != background) | (second != background)) & ~np.isnan(first + second)
            pairs += int(np.count_nonzero(inside))
            equal += int(np.count_nonzero(inside & (first == second)))
    return equal / pairs if pairs else 0.0
