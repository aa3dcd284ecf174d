"""Pictures of a result beside interpolation (and the truth), in the planes that show the thick axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D, Bbox
from scipy import ndimage

from srcyc.evaluation.metrics import evaluation_mask
from srcyc.files import written
from srcyc.physics.resampling import resample
from srcyc.volumes.geometry import Grid, thick_axis
from srcyc.volumes.intensity import robust_scaling
from srcyc.volumes.volume import Volume

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Name and the letters at the left and right border, by the RAS axis that a plane is perpendicular to.
_PLANES = {0: ("Sagittal", "A", "P"), 1: ("Coronal", "R", "L"), 2: ("Axial", "R", "L")}
#: Edge length of the magnified part, mm, and the most of the shown part that it may be.
_ZOOM, _ZOOM_SHARE = 52.0, 0.6
#: Scalp and skull are this thick; the magnified part lies deeper.
_DEPTH = 18.0
#: An error of this fraction of the data range is shown at full colour.
_ERROR_FULL = 0.25
#: The magnified part begins above this fraction of the shown height: below lie face and neck.
_BASE = 0.3
_PAPER, _INK, _FAINT, _ACCENT = "black", "white", "#a8b0b8", "#ffb000"
_OUTLINE = [withStroke(linewidth=2.5, foreground=_PAPER)]
_CELL_INCHES = 2.9
#: Of packing a picture: at 6, the default, it takes three times as long, for a tenth.
_EFFORT = 2
#: What is shown is chosen by voxels about this far apart, mm, at least so many along an axis.
_LOOKED, _FEWEST = 3.0, 16


@dataclass(frozen=True)
class Panel:
    """One column of a figure.

    Attributes:
        title: first line, what it is; second line, how good it is.
        data: ``(I, J, K)`` on the figure's grid.
        error: whether ``data`` is an absolute difference (drawn in colour) and no image.
    """

    title: str
    data: Image
    error: bool = False


def comparison_figure(
    path: Path,
    truth: Volume,
    columns: Sequence[Panel],
    *,
    axis: int,
    headline: str,
    all_planes: bool = False,
) -> Path:
    """Draw interpolated | super-resolved ... | truth | absolute errors, two planes and a magnified part of each.

    Args:
        path: PNG to write (replaced if present).
        truth: the scan that was thickened, ``(1, I, J, K)``.
        columns: the results on the truth's grid, the baseline first.
        axis: array axis that was thickened.
        headline: what is compared.
        all_planes: show all three planes whole and magnify nothing (a crop is magnified already).

    Raises:
        OutputError: the place cannot be written.
    """
    reference = truth.data[0]
    errors = [
        Panel(f"|error|, {column.title.splitlines()[0]}", np.abs(column.data - reference), error=True)
        for column in columns
    ]
    panels = [*columns, Panel("truth", reference), *errors]
    return _draw(path, panels, truth, axis, guide=errors[0].data, headline=headline, all_planes=all_planes)


def preview_figure(path: Path, scan: Volume, result: Volume, *, headline: str) -> Path:
    """Draw a real scan without a truth: interpolated (cubic B-spline) | super-resolved, one below the other.

    Args:
        path: PNG to write (replaced if present).
        scan: the scan as acquired.
        result: what was made of it, over the same field of view.
        headline: what is shown.

    Raises:
        OutputError: the place cannot be written.
    """
    scan_tensor = torch.from_numpy(np.ascontiguousarray(scan.data))
    interpolated = resample(scan_tensor, result.shape, "cubic").numpy()[0]
    columns = [
        Panel(f"cubic B-spline\nacquired {_millimetres(scan)}", interpolated),
        Panel(f"super-resolved\n{_millimetres(result)}", result.data[0]),
    ]
    return thick_scan_figure(path, scan, result, columns, headline=headline, side_by_side=False)


def thick_scan_figure(
    path: Path,
    scan: Volume,
    result: Volume,
    panels: Sequence[Panel],
    *,
    headline: str,
    side_by_side: bool = True,
) -> Path:
    """Draw what was made of a real scan, without a truth: two planes and a magnified part of each.

    Args:
        path: PNG to write (replaced if present).
        scan: the scan as acquired.
        result: gives the grid of the panels.
        panels: an interpolation first; the magnified part is where the last one differs most from it.
        headline: what is shown.
        side_by_side: panels are columns, else rows.

    Raises:
        OutputError: the place cannot be written.
    """
    # Mask and window come from this one: it has no overshoot, which would make air look like something.
    scan_tensor = torch.from_numpy(np.ascontiguousarray(scan.data))
    plain = replace(result, data=resample(scan_tensor, result.shape, "linear").numpy())
    return _draw(
        path,
        panels,
        plain,
        thick_axis(scan.grid),
        guide=np.abs(panels[-1].data - panels[0].data),
        headline=headline,
        side_by_side=side_by_side,
    )


def planes(data: Image, grid: Grid) -> list[Image]:
    """Cut the coronal, sagittal and axial plane through the middle, as they are shown on a screen.

    Args:
        data: ``(I, J, K)``.
        grid: where its voxels lie.

    Returns:
        three arrays ``(H, W)`` in radiological convention, rows from superior (or anterior) down, with square pixels
        as large as the grid's smallest spacing.
    """
    canonical = _Canonical(grid)
    array = canonical.array(data)
    views = []
    for plane in (1, 0, 2):
        section = np.moveaxis(array, plane, 0)[array.shape[plane] // 2][::-1, ::-1]
        spacing = [mm for axis, mm in enumerate(canonical.spacing) if axis != plane]
        stretch = [mm / min(canonical.spacing) for mm in spacing]
        if max(stretch) > 1:
            section = ndimage.zoom(section, stretch, order=1, grid_mode=True, mode="nearest")
        views.append(np.ascontiguousarray(section.T))
    return views


# -- layout --------------------------------------------------------------------------------------------------


def _draw(
    path: Path,
    panels: Sequence[Panel],
    reference: Volume,
    axis: int,
    *,
    guide: Image,
    headline: str,
    side_by_side: bool = True,
    all_planes: bool = False,
) -> Path:
    """Lay the panels out as columns (``side_by_side``) or as rows, and save.

    ``reference`` gives grid, mask and grey window; ``guide`` tells where there is something to see.
    """
    canonical = _Canonical(reference.grid)
    shape = canonical.array(reference.data[0]).shape
    coarse = _Coarse.of(shape, canonical.spacing)
    plain = coarse.part(canonical.array(reference.data[0]))
    # Head or brain; everything for a constant image.
    mask = np.ones(plain.shape, bool) if plain.min() == plain.max() else evaluation_mask(plain)
    deep = _deep(mask, coarse.spacing)
    interest = np.where(deep, coarse.part(canonical.array(guide)), 0)
    window = _window(plain, deep)
    grey: dict[str, Any] = {"cmap": "gray", "vmin": window[0], "vmax": window[1]}
    heat = {"cmap": "inferno", "vmin": 0.0, "vmax": _ERROR_FULL * robust_scaling(reference.data).scale}
    shown = [plane for plane in (1, 0, 2) if all_planes or plane != canonical.axis(axis)]
    views = [
        _View(plane, mask, interest, coarse, canonical.spacing, magnify=not all_planes) for plane in shown
    ]
    cells = [(view, zoomed) for view in views for zoomed in ((False,) if all_planes else (False, True))]

    figure, axes, places = _grid(
        [1.0 if zoomed else view.aspect for view, zoomed in cells], len(panels), side_by_side
    )
    for number, panel in enumerate(panels):
        array = canonical.array(panel.data)
        style = heat if panel.error else grey
        row = [
            places[place][number] if side_by_side else places[number][place] for place in range(len(cells))
        ]
        boxes = [
            view.show(axes, place, array, style, zoomed=zoomed)
            for place, (view, zoomed) in zip(row, cells, strict=True)
        ]
        _title(axes, boxes[0], panel.title, above=side_by_side)
    notes = ["Radiological view: the patient's right (R) is on the left.", "One grey window for all images."]
    if any(panel.error for panel in panels):
        notes.append(f"|error|: black 0, white {_ERROR_FULL:.0%} of the data range.")
    notes.append("Not for diagnostic use.")
    height = axes.get_ylim()[1]
    readable = headline.encode("utf-8", "replace").decode()  # names of files may be no UTF-8
    axes.text(0.1, height - 0.28, readable, color=_INK, fontsize=13, weight="bold", va="center")
    axes.text(0.1, 0.18, "  ".join(notes), color=_FAINT, fontsize=9, va="center")
    return save_figure(figure, path)


def _grid(aspects: Sequence[float], panels: int, side_by_side: bool) -> tuple[Figure, Axes, list[list[Bbox]]]:
    """Make a figure whose cells fit views of these aspects (width over height) without wasted paper.

    Returns:
        it, axes over all of it, in inches, because axes for each cell would take longer than all the rest, and the
        cells, row by row.
    """
    if side_by_side:
        widths, heights = [1.0] * panels, [1 / aspect for aspect in aspects]
        margin = {"left": 0.04, "right": 0.04, "top": 1.05, "bottom": 0.38}
    else:
        widths, heights = list(aspects), [1.0] * panels
        margin = {"left": 0.62, "right": 0.04, "top": 0.55, "bottom": 0.38}
    width = _CELL_INCHES * sum(widths) + margin["left"] + margin["right"]
    height = _CELL_INCHES * sum(heights) + margin["top"] + margin["bottom"]
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    cells = figure.add_gridspec(
        len(heights),
        len(widths),
        width_ratios=widths,
        height_ratios=heights,
        left=margin["left"] / width,
        right=1 - margin["right"] / width,
        top=1 - margin["top"] / height,
        bottom=margin["bottom"] / height,
        wspace=0.02,
        hspace=0.02,
    )
    inches = Affine2D().scale(width, height)
    return (
        figure,
        axes,
        [
            [cells[r, c].get_position(figure).transformed(inches) for c in range(len(widths))]
            for r in range(len(heights))
        ],
    )


def _title(axes: Axes, box: Bbox, title: str, *, above: bool) -> None:
    """Write a panel's two lines above its column, or upright at the left of its row."""
    first, _, second = title.partition("\n")
    for line, colour, size, points in ((first, _INK, 11, 24), (second, _FAINT, 9.5, 9)):
        if above:
            place: dict[str, Any] = {"xy": ((box.x0 + box.x1) / 2, box.y1), "xytext": (0, points)}
        else:
            place = {
                "xy": (box.x0, (box.y0 + box.y1) / 2),
                "xytext": (-points - 4, 0),
                "va": "center",
                "rotation": 90,
            }
        style: dict[str, Any] = {
            "color": colour,
            "fontsize": size,
            "weight": "bold" if colour == _INK else "normal",
        }
        axes.annotate(line, textcoords="offset points", ha="center", **place, **style)


def _window(data: Image, deep: Mask) -> tuple[float, float]:
    """Give the grey window: air is black, the brightest of the brain (not the scalp's fat) white."""
    scaling = robust_scaling(data)
    high = 1.15 * float(np.percentile(data[deep], 99.5)) if deep.any() else 0.0
    return scaling.offset, high if high > scaling.offset else scaling.offset + scaling.scale


class _Canonical:
    """Bring arrays of one grid into the closest RAS order."""

    def __init__(self, grid: Grid) -> None:
        self._orientation = nib.orientations.io_orientation(grid.affine)
        order = np.argsort(self._orientation[:, 0])
        self.spacing = tuple(grid.spacing[axis] for axis in order)

    def array(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``(I, J, K)`` -> ``(R, A, S)``, each index growing towards that direction."""
        return np.asarray(nib.orientations.apply_orientation(data, self._orientation))

    def axis(self, axis: int) -> int:
        """Give the RAS axis that an array axis is closest to."""
        return int(self._orientation[axis, 0])


@dataclass(frozen=True)
class _Coarse:
    """What is looked at to choose what is shown: one voxel every few mm, for all of them would take seconds.

    Attributes:
        steps: of voxels along R, A and S.
        shape: voxels of the whole.
        spacing: mm from one looked at to the next.
    """

    steps: tuple[int, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], spacing: tuple[float, ...]) -> _Coarse:
        steps = tuple(
            max(1, min(round(_LOOKED / mm), n // _FEWEST)) for n, mm in zip(shape, spacing, strict=True)
        )
        return cls(steps, shape, tuple(step * mm for step, mm in zip(steps, spacing, strict=True)))

    def part(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``(R, A, S)`` -> those voxels of it."""
        return np.ascontiguousarray(array[tuple(slice(None, None, step) for step in self.steps)])

    def whole(self, part: slice, axis: int) -> slice:
        """Give the voxels that a range of those looked at stands for."""
        step = self.steps[axis]
        return slice(part.start * step, min(part.stop * step, self.shape[axis]))


class _View:
    """One plane: which slice of it, which part is shown and which is magnified."""

    def __init__(
        self,
        plane: int,
        mask: Mask,
        interest: Image,
        coarse: _Coarse,
        spacing: tuple[float, ...],
        *,
        magnify: bool = True,
    ) -> None:
        self.plane = plane
        across = [axis for axis in range(3) if axis != plane]
        self.spacing = tuple(spacing[axis] for axis in across)
        looked = tuple(coarse.spacing[axis] for axis in across)
        index = _central_index(mask, plane)
        self.index = index * coarse.steps[plane]
        box = _shown_box(mask.any(axis=plane), looked)
        self.box = tuple(map(coarse.whole, box, across))
        self.zoom: tuple[slice, ...] | None = None
        if magnify:
            zoom = _zoom_box(np.take(interest, index, axis=plane), box, looked)
            self.zoom = tuple(map(coarse.whole, zoom, across))
        width, height = self._size(self.box)
        self.aspect = width / height

    def show(self, axes: Axes, cell: Bbox, array: Image, style: dict[str, Any], *, zoomed: bool) -> Bbox:
        """Draw this plane of an RAS array into a cell; give the part of it that is filled."""
        section = np.moveaxis(array, self.plane, 0)[self.index]  # np.take would copy all of it first
        part = self.zoom if zoomed and self.zoom else self.box
        # Rows run down from superior (or anterior); columns from the patient's right, or from anterior.
        picture = section[part][::-1, ::-1].T
        width, height = self._size(part)
        scale = min(cell.width / width, cell.height / height)
        box = Bbox.from_bounds(0, 0, scale * width, scale * height).anchored("C", cell)
        axes.imshow(
            picture, extent=(box.x0, box.x1, box.y0, box.y1), interpolation="bicubic", aspect="auto", **style
        )
        if zoomed:
            axes.add_patch(
                Rectangle(box.p0, box.width, box.height, fill=False, edgecolor=_ACCENT, linewidth=1.0)
            )
            return box
        name, left, right = _PLANES[self.plane]
        ink: dict[str, Any] = {"color": _INK, "fontsize": 9, "path_effects": _OUTLINE}
        for text, x, y, va, ha in (
            (name, 0.02, 0.98, "top", "left"),
            (left, 0.01, 0.5, "center", "left"),
            (right, 0.99, 0.5, "center", "right"),
        ):
            axes.text(box.x0 + x * box.width, box.y0 + y * box.height, text, va=va, ha=ha, **ink)
        if self.zoom is not None:
            (x, w), (y, h) = (
                ((whole.stop - inner.stop) * mm * scale, (inner.stop - inner.start) * mm * scale)
                for whole, inner, mm in zip(self.box, self.zoom, self.spacing, strict=True)
            )
            corner = (box.x0 + x, box.y1 - y - h)
            axes.add_patch(Rectangle(corner, w, h, fill=False, edgecolor=_ACCENT, linewidth=0.9))
        return box

    def _size(self, part: tuple[slice, ...]) -> tuple[float, float]:
        width, height = ((p.stop - p.start) * mm for p, mm in zip(part, self.spacing, strict=True))
        return width, height


# -- what to show --------------------------------------------------------------------------------------------


def _deep(mask: Mask, spacing: Sequence[float]) -> Mask:
    """Mark what lies below scalp and skull."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    return np.asarray(depth > min(_DEPTH, 0.5 * float(depth.max())))


def _central_index(mask: Mask, plane: int) -> int:
    """Give the slice through the middle of the mask along a RAS axis."""
    filled = np.flatnonzero(mask.any(axis=tuple(axis for axis in range(3) if axis != plane)))
    return int((filled[0] + filled[-1]) // 2)


def _shown_box(shadow: Mask, spacing: Sequence[float], margin: float = 6.0) -> tuple[slice, slice]:
    """Give the head's bounding box with a margin in mm, so that air does not waste the picture."""
    box = []
    for axis, mm in enumerate(spacing):
        filled = np.flatnonzero(shadow.any(axis=1 - axis))
        pad = round(margin / mm)
        box.append(slice(max(0, int(filled[0]) - pad), min(shadow.shape[axis], int(filled[-1]) + 1 + pad)))
    return box[0], box[1]


def _zoom_box(interest: Image, shown: tuple[slice, slice], spacing: Sequence[float]) -> tuple[slice, slice]:
    """Find the square with the most to see (largest mean of ``interest``), above the base of the skull."""
    extent = [(part.stop - part.start) * mm for part, mm in zip(shown, spacing, strict=True)]
    edge = min(_ZOOM, _ZOOM_SHARE * min(extent))
    w, h = (max(1, round(edge / mm)) for mm in spacing)
    total = np.pad(interest[shown].astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    # Sums over every square inside the shown part, by its first corner.
    sums = total[w:, h:] - total[:-w, h:] - total[w:, :-h] + total[:-w, :-h]
    lowest = min(int(_BASE * (shown[1].stop - shown[1].start)), sums.shape[1] - 1)
    corner = np.unravel_index(int(np.argmax(sums[:, lowest:])), sums[:, lowest:].shape)
    x, y = shown[0].start + int(corner[0]), shown[1].start + lowest + int(corner[1])
    return slice(x, x + w), slice(y, y + h)


def _millimetres(volume: Volume) -> str:
    return " × ".join(f"{mm:.3g}" for mm in volume.spacing) + " mm"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, complete or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    with written(path) as stream:
        figure.savefig(
            stream,
            dpi=130,
            facecolor=figure.get_facecolor(),
            format="png",
            pil_kwargs={"compress_level": _EFFORT},
        )
    return path
