"""What every format gives to its reader, and the checks that they share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srcyc.errors import VolumeError
from srcyc.memory import require_memory

#: ITK and DICOM world axes (left, posterior, superior) to ours (right, anterior, superior); its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Deflate packs at most this many bytes into one.
_DENSEST = 1032

#: Millimetres in a unit of length, by the names that headers have for it.
MILLIMETRES = {
    **{"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "millimeters": 1.0, "millimetres": 1.0},
    **{"cm": 10.0, "centimeter": 10.0, "centimetre": 10.0, "centimeters": 10.0, "centimetres": 10.0},
    **{"m": 1e3, "meter": 1e3, "metre": 1e3, "meters": 1e3, "metres": 1e3},
    **{"um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3},
    **{"micrometre": 1e-3, "nm": 1e-6, "in": 25.4, "inch": 25.4, "inches": 25.4},
}


@dataclass(frozen=True, eq=False)
class Orientation:
    """What a file says of its place in the world besides the affine, kept so that results say the same.

    Attributes:
        sform_code, qform_code: of NIfTI: which world each of its two forms means; 0: the form says nothing. Both 0:
            the place is unknown, the affine made up.
        to_second: ``(4, 4)``, world of the affine -> world in which other readers see the file, RAS mm: that of the
            qform where it is another one than the sform's, or the one that ITK makes up for an unknown place; None: the
            same.
    """

    sform_code: int = 1
    qform_code: int = 1
    to_second: npt.NDArray[np.float64] | None = None

    @property
    def known(self) -> bool:
        """Whether the file says anything of its place."""
        return self.sform_code > 0 or self.qform_code > 0


@dataclass(frozen=True)
class Scaling:
    """``value = slope * stored + intercept`` of a header, and the integer type that is stored."""

    dtype: np.dtype[Any]
    slope: float
    intercept: float


@dataclass(frozen=True)
class Origin:
    """What a file says of how it was made, in whatever room its format has for that.

    Attributes:
        line: the most important, one line of printable ASCII; NIfTI has room for 79 characters of it.
        fields: all of it, by names that are identifiers.
    """

    line: str
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep what headers of text cannot hold out of them: line breaks, and letters beyond ASCII."""
        object.__setattr__(self, "line", _one_line(self.line))
        object.__setattr__(self, "fields", {key: _one_line(text) for key, text in self.fields.items()})


def _one_line(text: str) -> str:
    return " ".join(text.encode("ascii", "replace").decode().split())


@dataclass(frozen=True, eq=False, kw_only=True)
class Told:
    """What a file says of its volume besides voxels and grid.

    Attributes:
        slice_thickness: mm, nominal full width at half maximum of the slice profile when the header tells it.
        padding: ``(I, J, K)`` bool, True where the file says that a voxel is no anatomy (DICOM's Pixel Padding Value);
            None: it says nothing.
        warnings: reasons for distrust that reading found, in sentences.
        orientation: what the file says of its place besides the affine; None: as the affine says.
        scaling: of the file's integers, if its header scales them.
        labels: what in the file's header says that this is a label map, a clause; None: nothing does.
        series: Series Instance UID of the DICOM series it is.
        files: that it was read from, where they are several.
    """

    slice_thickness: float | None = None
    padding: npt.NDArray[np.bool_] | None = None
    warnings: tuple[str, ...] = ()
    orientation: Orientation | None = None
    scaling: Scaling | None = None
    labels: str | None = None
    series: str | None = None
    files: tuple[Path, ...] = ()

    def told(self) -> dict[str, Any]:
        """Give the above, for what is made of it."""
        return {item.name: getattr(self, item.name) for item in fields(Told)}


@dataclass(frozen=True, eq=False)
class Header(Told):
    """What a file says of itself.

    Attributes:
        shape: ``(I, J, K)``.
        affine: ``(4, 4)`` float64, voxel index -> RAS mm.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RawVolume:
    """What a file holds, before the checks that every format shares.

    Attributes:
        header: what it says.
        voxels: ``(I, J, K)``, any real dtype, scaling of the header applied.
        stored_dtype: voxel type on disk; the type after scaling when the header scales.
    """

    header: Header
    voxels: npt.NDArray[Any]
    stored_dtype: np.dtype[Any]


def volume_shape(size: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Reduce a stored size to three axes; extra axes of one entry are dropped (some writers count them as 0)."""
    text = " x ".join(map(str, size))
    if len(size) < 3:
        raise VolumeError(
            f"{path}: a {len(size)}D image ({text}), not a volume", remedy="give all slices of a scan"
        )
    if any(n not in (0, 1) for n in size[3:]):
        raise VolumeError(
            f"{path}: holds several volumes ({text})", remedy="extract one of them and give that"
        )
    i, j, k = size[:3]
    if min(i, j, k) < 1:
        raise VolumeError(
            f"{path}: the header's size {text} is impossible", remedy="convert or copy the file again"
        )
    return i, j, k


def require_scalar(name: str | Path, *, complex_: bool, components: int) -> None:
    """Refuse voxels that are not one real number.

    Raises:
        VolumeError: they are not.
    """
    if complex_:
        raise VolumeError(f"{name}: complex voxels", remedy="give the magnitude image")
    if components != 1:
        raise VolumeError(
            f"{name}: {components} values per voxel (colour or vectors)", remedy="give a grey-scale volume"
        )


def require_bytes(path: Path, data: Path, start: int, needed: int, *, packed: bool) -> None:
    """Refuse a header that promises more voxels than its file can hold.

    Args:
        path: of the header.
        data: of the file with the voxels, often the same.
        start: where they begin in it.
        needed: their bytes, unpacked.
        packed: they are deflated, from the beginning of the file or from ``start`` on.

    Raises:
        VolumeError: the file is too small.
    """
    size = data.stat().st_size
    if start + needed > (size * _DENSEST + start if packed else size):
        place = "there" if data == path else f"in {data.name}"
        raise VolumeError(
            f"{path}: truncated, the header promises {start + needed} bytes and {size}{' packed ones' * packed} are "
            f"{place}",
            remedy="copy the file again",
        )


def require_room(path: Path, shape: tuple[int, int, int], itemsize: int) -> None:
    """Refuse voxels that do not fit into memory, as they are stored and as float32.

    Raises:
        VolumeError: they do not.
    """
    require_memory(math.prod(shape) * (itemsize + 4), path)
