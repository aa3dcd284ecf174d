"""What of a scan was not measured: no value (NaN), padding, absurd voxels, slices lost on the way.

Such voxels are no anatomy. They are left out of the scaling, replaced before anything is computed, and put back into
the result where they were; only a lost slice between others stays replaced, and is told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from srcyc.errors import VolumeError
from srcyc.volumes.geometry import thick_axis
from srcyc.volumes.intensity import LOWER_PERCENTILE, meaningless_in
from srcyc.volumes.volume import Volume

_Array = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]
_Voxels = TypeVar("_Voxels", _Array, _Mask)

#: A slice is lost if it varies less than this share of what slices on both of its sides do.
_BLANK = 0.02
#: Slices that hold less than this share of what the fullest one does are no evidence of what a blank one lacks.
_HOLDING = 0.2
#: Lines of a slice, and their share, that hold nothing where both neighbours hold something: a part of it is lost.
_LEAST_LINES, _CUT = 3, 0.08
#: Slices in a row that are replaced; across more nothing is known of what lay between.
_MOST_LOST = 3
#: Slice distances beyond which no voxel matters to a measured one.
_FAR = 4.0
#: Blank slices at an end are cut off, not air, if the next one varies at least this much as the one behind it.
_ABRUPT = 0.9


@dataclass(frozen=True, eq=False)
class Missing:
    """The voxels of one scan that were not measured.

    Attributes:
        valueless: ``(I, J, K)``, True where there is no value (NaN).
        padding: the same, where there is a value that means nothing.
        absurd: the same, where a value is an accident.
        axis: of the slices.
        lost: indices of slices that hold nothing and are replaced by what lies around them.
        blank: indices of slices that hold nothing and stay so.
        cut: ``(I, J, K)``, True where a slice was cut off on the way: replaced by what lies around it.
    """

    valueless: _Mask
    padding: _Mask
    absurd: _Mask
    axis: int
    lost: tuple[int, ...]
    blank: tuple[int, ...]
    cut: _Mask

    @classmethod
    def of(cls, volume: Volume) -> Missing:
        """Find them in a scan of one channel."""
        data = volume.data[0]
        valueless = np.isnan(data)
        measured = ~valueless
        padding = np.zeros(data.shape, bool) if volume.padding is None else volume.padding & measured
        more, absurd = meaningless_in(data, measured & ~padding)
        padding = padding | more
        measured &= ~padding
        axis = thick_axis(volume.grid)
        lost, blank = _blank_slices(data, measured & ~absurd, axis)
        kept = ~measured | absurd
        cut = _cut_slices(np.moveaxis(data, axis, 0), {*lost, *blank}) & np.moveaxis(~kept, axis, 0)
        return cls(valueless, padding, absurd, axis, lost, blank, np.moveaxis(cut, 0, axis))

    @property
    def any(self) -> bool:
        """Whether anything is missing."""
        return bool(self.kept.any() or self.lost or self.cut.any())

    @property
    def kept(self) -> _Mask:
        """``(I, J, K)``, True where the result gets the scan's own voxels back."""
        kept = self.valueless | self.padding | self.absurd
        if self.blank:
            np.moveaxis(kept, self.axis, 0)[list(self.blank)] = True
        return kept

    @property
    def measured(self) -> _Mask:
        """``(I, J, K)``, True where a voxel says something of the anatomy."""
        measured = ~(self.kept | self.cut)
        if self.lost:
            np.moveaxis(measured, self.axis, 0)[list(self.lost)] = False
        return measured

    @property
    def cut_slices(self) -> list[int]:
        """Indices of the slices that were cut off."""
        return [k for k, part in enumerate(np.moveaxis(self.cut, self.axis, 0)) if part.any()]

    def filled(self, volume: Volume) -> Volume:
        """Give the scan with values everywhere, so that what was measured is not disturbed by what was not."""
        if not self.any:
            return volume
        data = _filled(volume.data[0], self.kept, self.measured, volume.spacing)
        cut = np.moveaxis(self.cut, self.axis, 0)
        _interpolate(np.moveaxis(data, self.axis, 0), self.lost, self.cut_slices, cut)
        return replace(volume, data=data[None], padding=None)

    def put_back(self, result: _Array, scan: _Array) -> None:
        """Put the scan's own voxels into a result, in place.

        An absurd one is what it is in the middle of its place and falls off from there, so that it stays where it was.

        Args:
            result: of any shape over the scan's field of view, axes as in the scan.
            scan: the voxels as they were read.
        """
        kept = self.kept
        if kept.any():
            where = _nearest(kept, result.shape)
            own = _nearest(scan, result.shape)[where]
            share = np.where(
                _nearest(self.absurd, result.shape)[where], _centred(scan.shape, result.shape)[where], 1
            )
            result[where] = np.where(share == 1, own, share * own + (1 - share) * result[where])

    def blanked(self, result: _Array) -> None:
        """Put NaN into a map of a result where the scan's own voxels stand, in place."""
        kept = self.kept
        if kept.any():
            result[_nearest(kept, result.shape)] = np.nan

    def require_whole(self, name: object) -> None:
        """Refuse a scan of which slices between others are lost.

        Args:
            name: of the scan, for the sentence.

        Raises:
            VolumeError: some are.
        """
        count = self.absurd.shape[self.axis]
        holding = [k for k in range(count) if k not in (*self.lost, *self.blank)]
        lacking = {k for k in (*self.lost, *self.blank) if holding[0] < k < holding[-1]}
        if slices := sorted(lacking.union(self.cut_slices)):
            raise VolumeError(
                f"{name}: {_slices(slices, count)} blank, or in part", remedy="give the whole scan"
            )

    def warnings(self, scan: _Array) -> tuple[str, ...]:
        """Tell in sentences what was found."""
        told = []
        for mask, what, done in (
            (self.valueless, "hold no value (NaN)", "left out, and NaN in the result"),
            (self.padding, "are padding", "left out, and put back into the result"),
            (
                self.absurd,
                "lie far outside the scan's range",
                "left out, and put back into the result as they are",
            ),
        ):
            count = int(np.count_nonzero(mask))
            if count:
                values = "" if mask is self.valueless else f" ({_range(scan[mask])})"
                told.append(f"{count} of {mask.size} voxels {what}{values}: {done}.")
        slices = scan.shape[self.axis]
        if self.lost:
            told.append(
                f"{_slices(self.lost, slices)} blank: taken as lost; what the result shows there is interpolated."
            )
        if cut := self.cut_slices:
            told.append(
                f"{_slices(cut, slices)} blank in part: taken as cut off; what the result shows there is interpolated."
            )
        if self.blank:
            told.append(f"{_slices(self.blank, slices)} blank: left out, and blank in the result.")
        return tuple(told)


def _blank_slices(data: _Array, measured: _Mask, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the slices that hold nothing: those between others to be replaced, and those to be left."""
    spread = np.array(
        [
            float(values[known].std(dtype=np.float64)) if known.any() else np.nan
            for values, known in zip(np.moveaxis(data, axis, 0), np.moveaxis(measured, axis, 0), strict=True)
        ]
    )
    known = np.nan_to_num(spread)
    # What slices on both sides hold, at least; next to nothing there is air, and says nothing.
    around = np.minimum(np.maximum.accumulate(known), np.maximum.accumulate(known[::-1])[::-1])
    # A slice without any measured voxel is padding altogether.
    empty = ~np.isnan(spread) & (spread <= _BLANK * around) & (around > _HOLDING * known.max())
    lost: list[int] = []
    blank: list[int] = []
    for run in _runs(np.flatnonzero(empty)):
        (lost if len(run) <= _MOST_LOST else blank).extend(run)
    for end, inner in _ends(spread):
        if len(inner) > 2 and spread[inner[0]] >= max(_ABRUPT * spread[inner[1]], _HOLDING * known.max()):
            blank.extend(end)
    return tuple(lost), tuple(sorted(blank))


def _cut_slices(slices: _Array, empty: set[int]) -> _Mask:
    """Mark parts of slices ``(S, I, J)`` from a border on that hold one value where both neighbours hold something."""
    cut = np.zeros(slices.shape, bool)
    for turned, marked in ((slices, cut), (slices.transpose(0, 2, 1), cut.transpose(0, 2, 1))):
        for image, mark in ((turned, marked), (turned[:, ::-1], marked[:, ::-1])):
            runs = np.array([_constant_lines(part) for part in image])
            least = max(_LEAST_LINES, _CUT * image.shape[1])
            around = np.maximum(runs[:-2], runs[2:])
            for k in 1 + np.flatnonzero((runs[1:-1] - around >= least) & (runs[1:-1] < image.shape[1])):
                if {k - 1, k, k + 1} & empty:
                    continue
                if all(_holding_lines(image[other], runs[k]) >= least for other in (k - 1, k + 1)):
                    mark[k, : runs[k]] = True
    return cut


def _constant_lines(image: _Array) -> int:
    """Give how many lines ``(I, J)`` from the first one on hold one value."""
    for count, line in enumerate(image):
        if not (line == image[0, 0]).all():
            return count
    return len(image)


def _holding_lines(image: _Array, count: int) -> int:
    """Give how many of the first lines ``(I, J)`` vary as lines of this slice do."""
    with np.errstate(over="ignore", invalid="ignore"):
        spread = image.std(axis=1)
        return int(np.count_nonzero(spread[:count] > _HOLDING * spread.max()))


def _ends(spread: npt.NDArray[np.float64]) -> list[tuple[list[int], list[int]]]:
    """Give the slices at either end that are constant, and those behind them, from that end on."""
    found = []
    for order in (range(len(spread)), range(len(spread) - 1, -1, -1)):
        constant = list(itertools.takewhile(lambda k: spread[k] == 0, order))
        found.append((constant, list(order)[len(constant) :]))
    return [(end, inner) for end, inner in found if end]


def _runs(places: npt.NDArray[np.intp]) -> list[list[int]]:
    """Split sorted indices into runs without gaps."""
    return [run.tolist() for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if run.size]


def _filled(data: _Array, kept: _Mask, measured: _Mask, spacing: Sequence[float]) -> _Array:
    """Replace voxels by the nearest measured ones; far from any by what is empty, which need not be computed."""
    data = data.copy()
    if kept.any() and measured.any():
        distance, nearest = ndimage.distance_transform_edt(~measured, sampling=spacing, return_indices=True)
        data[kept] = data[tuple(nearest)][kept]
        far = kept & (distance > _FAR * max(spacing))
        if far.any():
            data[far] = np.percentile(data[measured], LOWER_PERCENTILE)
    return data


def _interpolate(slices: _Array, lost: Sequence[int], parts: Sequence[int], cut: _Mask) -> None:
    """Replace slices, and parts of slices, by the polynomial through the two nearest on either side, in place.

    Args:
        slices: ``(S, ...)``.
        lost: those that hold nothing.
        parts: those of which a part holds nothing.
        cut: ``(S, ...)``, that part.
    """
    good = [k for k in range(len(slices)) if k not in lost and k not in parts]
    for k in (*lost, *parts):
        nodes = [*[g for g in good if g < k][-2:], *[g for g in good if g > k][:2]]
        weights = [
            math.prod((k - other) / (node - other) for other in nodes if other != node) for node in nodes
        ]
        between = np.tensordot(np.array(weights, np.float32), slices[nodes], axes=1)
        slices[k] = np.where(cut[k], between, slices[k]) if k in parts else between


def _nearest(image: _Voxels, shape: Sequence[int]) -> _Voxels:
    """Sample an image at the voxels of another grid over the same field of view."""
    index = [
        ((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(image.shape, shape, strict=True)
    ]
    return image[np.ix_(*index)]


def _centred(shape: Sequence[int], fine: Sequence[int]) -> _Array:
    """Weigh each voxel of a finer grid by how near it lies to the middle of the coarse one that it is in: 1 at most."""
    weights = []
    for old, new in zip(shape, fine, strict=True):
        position = (np.arange(new) + 0.5) * old / new
        weight = 1 - np.abs(position - position.astype(int) - 0.5)
        most = np.zeros(old)
        np.maximum.at(most, position.astype(int), weight)
        weights.append((weight / most[position.astype(int)]).astype(np.float32))
    return weights[0][:, None, None] * weights[1][:, None] * weights[2]


def _range(values: _Array) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _slices(indices: Sequence[int], count: int) -> str:
    parts = [
        f"{run[0] + 1}" if len(run) == 1 else f"{run[0] + 1} to {run[-1] + 1}"
        for run in _runs(np.array(indices))
    ]
    one = len(indices) == 1
    return f"slice{'' if one else 's'} {', '.join(parts)} of {count} {'is' if one else 'are'}"
