"""The stack that parallel frames make: their order, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.frames import Frame
from srcyc.volumes.formats.raw import LPS_TO_RAS

#: A gap between slices may differ from the mean gap by this fraction of it.
GAP_TOLERANCE = 0.05
#: Slices closer than this fraction of the mean gap share a position (echoes, time points, b-values).
_SAME_POSITION = 0.01
#: A stack may lean by this fraction of an in-plane pixel over all its slices before it counts as sheared.
_LEAN_TOLERANCE = 0.5
#: Slices that are there may be at least this share of those that fill the gaps between them.
_LEAST_PRESENT = 0.5


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames in the order of their places along the normal, on a regular grid.

    Attributes:
        frames: sorted.
        affine: ``(4, 4)``, voxel index -> RAS mm; array axes run along the columns, the rows and the normal.
        filling: ``(planes, frames)`` weights of the frames in each plane of the grid, rows sum to 1; None: the frames
            are the planes.
    """

    frames: tuple[Frame, ...]
    affine: npt.NDArray[np.float64]
    filling: npt.NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(I, J, K)``."""
        rows, columns = self.frames[0].size
        return columns, rows, len(self.frames) if self.filling is None else len(self.filling)

    @property
    def distance(self) -> float:
        """Distance of the planes, mm."""
        return float(np.linalg.norm(self.affine[:3, 2]))

    @classmethod
    def of(cls, frames: Sequence[Frame], where: Path, *, fill_gaps: bool = False) -> Stack:
        """Order frames after checking that they make one regular stack.

        Args:
            frames: parallel, of one size and pixel spacing.
            where: for sentences.
            fill_gaps: planes that are missing between others are interpolated linearly from their neighbours.

        Raises:
            VolumeError: a single frame, frames of several persons, repeated positions, a leaning stack, gaps that
                differ by more than 5 % from their mean (with ``fill_gaps``: more planes missing than there are).
        """
        if len(frames) == 1:
            raise VolumeError(
                f"{where}: the DICOM series has a single slice ({frames[0].label})",
                remedy="at least 2 slices are needed, give the whole series",
            )
        _require_one_person(frames, where)
        frames = in_order(frames)
        _require_different_places(frames, where)
        _require_upright(frames, where)
        places = _places(frames)
        gaps = np.diff(places)
        mean = float((places[-1] - places[0]) / len(gaps))
        worst = int(np.argmax(np.abs(gaps - mean)))
        filling = None
        if abs(gaps[worst] - mean) > GAP_TOLERANCE * mean:
            if not fill_gaps:
                raise VolumeError(
                    f"{where}: missing or irregular slices, the gap between {frames[worst].label} "
                    f"and {frames[worst + 1].label} is {gaps[worst]:.4g} mm where the mean is {mean:.4g} mm",
                    remedy="give the complete series, or fill_gaps to interpolate what is missing",
                    options=("fill_gaps",),
                )
            filling = _filling(places, where)
        planes = len(frames) if filling is None else len(filling)
        return cls(tuple(frames), _affine(frames, planes), filling)


def in_order(frames: Sequence[Frame]) -> list[Frame]:
    """Sort parallel frames along their normal."""
    normal = frames[0].normal
    return sorted(frames, key=lambda frame: float(frame.position @ normal))


def repeated(frames: Sequence[Frame]) -> list[tuple[Frame, Frame]]:
    """Give the pairs of parallel frames, neighbours along the normal, that lie at one place."""
    if len(frames) < 2:
        return []
    frames = in_order(frames)
    places = _places(frames)
    # mm; of slices that all lie at one place the mean gap is none.
    near = max(_SAME_POSITION * float(places[-1] - places[0]) / (len(places) - 1), 1e-4)
    return [(frames[index], frames[index + 1]) for index in np.flatnonzero(np.diff(places) <= near)]


def _places(frames: Sequence[Frame]) -> npt.NDArray[np.float64]:
    normal = frames[0].normal
    return np.array([frame.position @ normal for frame in frames])


def _require_one_person(frames: Sequence[Frame], where: Path) -> None:
    first = frames[0]
    other = next((frame for frame in frames if frame.person != first.person), None)
    if other is not None:
        raise VolumeError(
            f"{where}: the slices {first.label} and {other.label} of one series have different Patient IDs",
            remedy="put each person's files in a folder of their own",
        )


def _require_different_places(frames: Sequence[Frame], where: Path) -> None:
    if pairs := repeated(frames):
        first, second = pairs[0]
        raise VolumeError(
            f"{where}: {len(pairs)} of the {len(frames)} slices repeat the position of another, {second.label} that of "
            f"{first.label} (echoes, time points or diffusion weightings in one series)",
            remedy="take out what does not belong to the scan, or export it as a series of its own",
        )


def _require_upright(frames: Sequence[Frame], where: Path) -> None:
    first = frames[0]
    offsets = np.array([frame.position - first.position for frame in frames])
    lean = float(np.linalg.norm(offsets - np.outer(offsets @ first.normal, first.normal), axis=1).max())
    if lean > _LEAN_TOLERANCE * min(first.pixel_spacing):
        raise VolumeError(
            f"{where}: the stack leans by {lean:.3g} mm against the slices' normal (gantry tilt)",
            remedy="resample it onto an orthogonal grid first",
        )


def _filling(places: npt.NDArray[np.float64], where: Path) -> npt.NDArray[np.float64]:
    """Give the weights that interpolate frames linearly to planes of their usual distance, from first to last."""
    extent = float(places[-1] - places[0])
    gaps = np.diff(places)
    planes = round(extent / float(np.median(gaps[gaps < 1.5 * gaps.min()]))) + 1
    if planes < 2 or len(places) < _LEAST_PRESENT * planes:
        raise VolumeError(
            f"{where}: {len(places)} of about {planes} slices are there, too few to fill the gaps between them",
            remedy="give the complete series",
        )
    wanted = places[0] + np.linspace(0, extent, planes)
    after = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    share = (wanted - places[after - 1]) / (places[after] - places[after - 1])
    # A plane where a frame lies, as nearly as in a series without gaps, is that frame.
    mean = extent / (planes - 1)
    share[np.abs(wanted - places[after - 1]) <= GAP_TOLERANCE * mean] = 0.0
    share[np.abs(wanted - places[after]) <= GAP_TOLERANCE * mean] = 1.0
    weights = np.zeros((planes, len(places)))
    rows = np.arange(planes)
    weights[rows, after - 1] = 1 - share
    weights[rows, after] += share
    return weights


def _affine(frames: Sequence[Frame], planes: int) -> npt.NDArray[np.float64]:
    """Voxel index -> RAS mm of planes between the first and the last frame."""
    first = frames[0]
    lps = np.eye(4)
    between_rows, between_columns = first.pixel_spacing
    lps[:3, 0] = first.row * between_columns
    lps[:3, 1] = first.column * between_rows
    lps[:3, 2] = first.normal * ((frames[-1].position - first.position) @ first.normal) / (planes - 1)
    lps[:3, 3] = first.position
    affine: npt.NDArray[np.float64] = LPS_TO_RAS @ lps
    return affine
