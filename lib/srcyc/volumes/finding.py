"""What volumes there are in a folder, however deep, and what else lies there and why it is none."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from srcyc.errors import VolumeError
from srcyc.volumes.dicom import LeftOut, list_series
from srcyc.volumes.image_files import data_file, header_file, volume_suffix

#: Kinds of files that are none of a volume that is read, by the end of their names.
_REASONS = {
    (".img", ".img.gz"): "an image whose header (.hdr) does not lie beside it",
    (".par", ".rec"): "Philips PAR/REC, which is not read: convert it to NIfTI",
    (".mnc", ".mnc.gz"): "MINC, which is not read: convert it to NIfTI",
    (".mif", ".mif.gz", ".mih"): "MRtrix's format, which is not read: convert it to NIfTI",
    (".head", ".brik", ".brik.gz"): "AFNI's format, which is not read: convert it to NIfTI",
    (".vti", ".vtk", ".h5", ".hdf5", ".mat", ".npy", ".npz"): "a format of volumes that is not read",
    (
        ".nii.bz2",
        ".nii.xz",
        ".nii.zst",
        ".zip",
        ".tar",
        ".tgz",
        ".7z",
        ".rar",
        ".bz2",
        ".xz",
    ): "packed: unpack it",
    (".part", ".partial", ".crdownload", ".filepart", ".tmp"): "not complete: copy it again",
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"): "a picture, no volume",
}
_NO_VOLUME = "no volume"
_NO_TARGET = "a link to nothing (of a DataLad data set: get its files first)"


@dataclass(frozen=True)
class Survey:
    """What there is at and below a folder.

    Attributes:
        volumes: files, and addresses of DICOM series (see :func:`srcyc.volumes.volume.read_volume`), sorted.
        left_out: everything else but hidden files and what belongs to a volume, by reason.
    """

    volumes: list[Path]
    left_out: list[LeftOut]


def survey(folder: Path) -> Survey:
    """Look at all files at and below a folder, each once, also through links; hidden files and folders are left out.

    Raises:
        VolumeError: not a folder, or not readable.
    """
    try:
        os.scandir(folder).close()
        listing = list_series(folder)
    except OSError as error:
        raise VolumeError(
            f"{folder}: cannot be listed ({error.strerror})", remedy="give an existing folder"
        ) from error
    told = listing.told()
    known = {file for one in told for file in one.files}
    known |= {file for series in listing.series for file in series.files}
    known.update(listing.lost)  # reading the series beside them says so
    volumes = {*(series.address for series in listing.series), *listing.broken}
    others: list[Path] = []
    reasons: dict[str, list[Path]] = defaultdict(list)
    for path in listing.files:
        if path in known:
            continue
        if os.path.islink(path) and not os.path.exists(path):
            reasons[_NO_TARGET].append(path)
        # What may not even be looked at is refused when it is read.
        elif volume_suffix(path) is not None and (os.path.isfile(path) or not os.path.exists(path)):
            volumes.add(path)
        else:
            others.append(path)
    parts = set(_companions(volumes))
    for path in others:
        if path not in parts and header_file(path) not in volumes:
            reasons[_reason(path)].append(path)
    return Survey(
        sorted(volumes), [*told, *(LeftOut(tuple(sorted(files)), why) for why, files in reasons.items())]
    )


def _companions(volumes: Iterable[Path]) -> Iterator[Path]:
    """Give the files that belong to volumes: their voxels, and what is told of them."""
    for path in volumes:
        suffix = volume_suffix(path)
        if suffix is None:
            continue
        if (data := data_file(path)) is not None:
            yield data
        stem = path.name[: -len(suffix)]
        for ending in (".json", ".png", ".bval", ".bvec"):
            yield path.with_name(stem + ending)


def _reason(path: Path) -> str:
    name = path.name.lower()
    if name == "dicomdir":
        return "the index of a DICOM medium"
    return next((reason for endings, reason in _REASONS.items() if name.endswith(endings)), _NO_VOLUME)
