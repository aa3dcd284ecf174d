"""The voxels of frames, decoded by GDCM through ITK.

It decodes the compressed transfer syntaxes, masks overlay bits, applies the rescale of a file, and refuses truncated
files. Three things are kept from it: deflated files, which it inflates without a limit; compressed frames that claim
to be larger than the header says, for which it allocates what they claim; and frames whose rescales differ, to all of
which it applies the first one's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.config import disable_value_validation
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from srcyc.errors import VolumeError
from srcyc.volumes.dicom.codestreams import claimed_sizes
from srcyc.volumes.dicom.files import (
    LARGEST_HEADER,
    inflated,
    is_compressed,
    pixel_bytes,
    read_header,
    reading,
    syntax_of,
)
from srcyc.volumes.dicom.frames import Frame
from srcyc.volumes.formats.itk import quiet_itk

_PIXEL_KEYS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_voxels(frames: Sequence[Frame]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Decode frames in the given order.

    Returns:
        voxels ``(I, J, K)``, rescaled, in a dtype that holds every frame's own; and ``(I, J, K)`` bool, True where the
        header says padding, None if that is nowhere.

    Raises:
        VolumeError: truncated or damaged pixels, or more of them than the header says.
    """
    rescales: dict[Path, set[tuple[float, float]]] = {}
    for frame in frames:
        rescales.setdefault(frame.file, set()).add(frame.rescale)
    decoded: dict[Path, npt.NDArray[Any]] = {}
    planes, paddings = [], []
    padded = any(frame.padding for frame in frames)
    for frame in frames:
        own = frame.enhanced and len(rescales[frame.file]) > 1
        if frame.file not in decoded:
            decoded = {frame.file: _decode(frame, stored=own)}  # keep only the current file: it may hold all
        if frame.index >= len(decoded[frame.file]):
            raise _misfit(frame.file)
        plane = decoded[frame.file][frame.index]
        slope, intercept = frame.rescale
        if padded:
            paddings.append(_padding_of(plane, frame, stored=own))
        planes.append(plane * np.float64(slope) + np.float64(intercept) if own else plane)
    padding = np.stack(paddings).T if any(p.any() for p in paddings) else None
    return np.stack(planes).T, padding  # (slice, row, column) -> (column, row, slice)


def equal_pixels(first: Frame, second: Frame) -> bool:
    """Tell whether two frames hold the same values, without decoding where they are encoded alike.

    Raises:
        VolumeError: pixels that cannot be read.
    """
    if first.index != second.index or first.rescale != second.rescale:
        return False
    syntaxes = {syntax_of(frame.file) for frame in (first, second)}
    if len(syntaxes) == 1 and DeflatedExplicitVRLittleEndian not in syntaxes:
        stored, other = (_stored_pixels(frame.file) for frame in (first, second))
        if stored and stored == other:
            return True
        if first.instance != second.instance:  # encoded alike, and other images by their own account
            return False
    pixels = [_decode(frame, stored=False)[frame.index] for frame in (first, second)]
    return bool(np.array_equal(*pixels))


def _stored_pixels(file: Path) -> bytes:
    """Give the pixels of a file as they are stored.

    Raises:
        VolumeError: they cannot be read.
    """
    with reading(file), disable_value_validation():
        header = pydicom.dcmread(file, force=True, specific_tags=list(_PIXEL_KEYS))
        return bytes(next((header[key].value for key in _PIXEL_KEYS if key in header), b"") or b"")


def _require_claims(frame: Frame) -> None:
    """Refuse compressed frames larger than the header says.

    Raises:
        VolumeError: some are.
    """
    if not is_compressed(syntax_of(frame.file)):
        return
    rows, columns = frame.size
    for tall, wide in claimed_sizes(_stored_pixels(frame.file)):
        if tall > rows or wide > columns:
            raise VolumeError(
                f"{frame.file}: the header says {columns} x {rows} pixels, a compressed frame in it {wide} x {tall}",
                remedy="export the series again",
            )


def _padding_of(plane: npt.NDArray[Any], frame: Frame, *, stored: bool) -> npt.NDArray[np.bool_]:
    """Give where a plane, of stored or of rescaled values, is padding."""
    if frame.padding is None:
        return np.zeros(plane.shape, bool)
    slope, intercept = (1.0, 0.0) if stored else frame.rescale
    ends = sorted(value * slope + intercept for value in frame.padding)
    margin = abs(slope) / 4  # rescaled values are rounded, stored ones lie a whole slope apart
    return np.asarray((plane >= ends[0] - margin) & (plane <= ends[1] + margin))


def _decode(frame: Frame, *, stored: bool) -> npt.NDArray[Any]:
    """Decode a file as ``(frames, rows, columns)``; ``stored``: without its frames' rescales."""
    file = frame.file
    with tempfile.TemporaryDirectory(prefix="srcyc-") as folder:
        plain = Path(folder) / "plain.dcm"
        if syntax_of(file) == DeflatedExplicitVRLittleEndian:
            _write_inflated(file, plain)
            file = plain
        else:
            _require_claims(frame)
        if stored:
            _rewrite(file, plain, frame.file, without=("PixelValueTransformationSequence",))
            file = plain
        try:
            try:
                frames = _read(file)
            except RuntimeError as error:
                # ITK takes this for the spacing; scanners mean that there is no gap, and we do not ask.
                if "Zero-valued spacing" not in str(error):
                    raise
                _rewrite(file, plain, frame.file, without=("SpacingBetweenSlices",))
                frames = _read(plain)
        except RuntimeError as error:
            raise VolumeError(
                f"{frame.file}: its pixels are truncated or cannot be decoded",
                remedy="copy or export the series again",
            ) from error
    # A trailing axis would be colour that the header did not announce; the reshape refuses it.
    if frames.size % (frame.size[0] * frame.size[1]) or frames.shape[-2:] != frame.size:
        raise _misfit(frame.file)
    return frames.reshape(-1, *frame.size)


def _read(file: Path) -> npt.NDArray[Any]:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    with quiet_itk():
        found: npt.NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    return found


def _misfit(file: Path) -> VolumeError:
    return VolumeError(f"{file}: the pixels do not fit the header's size", remedy="export the series again")


def _write_inflated(file: Path, plain: Path) -> None:
    """Write a deflated file as it would be uncompressed.

    Raises:
        VolumeError: it inflates to more than its header says.
    """
    limit = LARGEST_HEADER + pixel_bytes(read_header(file))
    with reading(file), file.open("rb") as stream:
        meta, data = inflated(stream, file, limit + 1)
    if len(data) > limit:
        raise VolumeError(
            f"{file}: inflates to more than {limit} bytes, which its header's size does not explain",
            remedy="take it out",
        )
    deflated = DeflatedExplicitVRLittleEndian.encode().ljust(
        -(-len(DeflatedExplicitVRLittleEndian) // 2) * 2, b"\0"
    )
    explicit = ExplicitVRLittleEndian.encode().ljust(
        len(deflated), b"\0"
    )  # of the same length: groups keep theirs
    plain.write_bytes(bytes(128) + b"DICM" + meta.replace(deflated, explicit, 1) + data)


def _rewrite(file: Path, plain: Path, named: Path, *, without: Sequence[str]) -> None:
    """Write a file without some elements, of the image or of its frames' headers."""
    with reading(named):
        with disable_value_validation():
            image = pydicom.dcmread(file, force=True)
        groups = [*(image.get("SharedFunctionalGroupsSequence") or ())]
        groups += image.get("PerFrameFunctionalGroupsSequence") or ()
        measures = [item for group in groups for item in group.get("PixelMeasuresSequence") or ()]
        for part in (image, *groups, *measures):
            for key in without:
                if key in part:
                    delattr(part, key)
        pydicom.dcmwrite(plain, image)
