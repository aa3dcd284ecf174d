"""Results as a BIDS derivative: how one is named, what its sidecar says, and what describes the data set of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcyc._version import __version__
from srcyc.documents import known, write_json
from srcyc.errors import InputError, OutputError
from srcyc.files import write_text
from srcyc.inference.results import LABELS, Place
from srcyc.volumes.volume import volume_stem

DESCRIPTION = "dataset_description.json"
#: Of the standard that names and descriptions follow.
_VERSION = "1.10.0"
#: What a result is called: the entity for how an image was reconstructed.
_ENTITY, _LABEL = "rec", "SR"
#: The source data set, in the links and the sources of this one.
_LINK = "raw"
#: Folders of a data set in which no scans of its own lie.
_ASIDE = ("derivatives", "sourcedata", "code", "stimuli")
_ANATOMY = "anat"
#: The order in which the standard has entities.
_ORDER = (
    *("sub", "ses", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir"),
    *("run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording"),
    *("chunk", "seg", "res", "den", "label", "desc"),
)
_NAME = re.compile(r"sub-[0-9A-Za-z+]+(_[a-z]+-[0-9A-Za-z+]+)*_[0-9A-Za-z]+")
#: Pictures, what is told about the group; and what validators before 2.0, which know no derivatives, take for a
#: misspelling.
_IGNORED = "*.png\n*_desc-*\n*_dseg.*\ngroup_*\nlogs/\n"
_README = """\
# Super-resolved scans

Made by srcyc {version} of the thick-slice scans of `{source}`. Detail between their slices is estimated by a network:
research software, not for diagnostic use. The sidecar of each scan names the model and says how it was made.
"""


@dataclass(frozen=True)
class BidsPlace(Place):
    """The place of one result in a derivative.

    Attributes:
        scan: path of the scan within its data set, with ``/``.
        skull_stripped: as the scan's sidecar says; what a scanner gives is not, and BIDS wants it said.
    """

    scan: str = ""
    skull_stripped: bool = False

    def map(self, name: str) -> Path:
        """One of the maps, told apart by `desc`, or the labels: a discrete segmentation."""
        stem = volume_stem(self.volume)
        entities, suffix = parsed(stem)
        if name == LABELS:
            return self.beside_named(_spelled(entities, "dseg"))
        return self.beside_named(_spelled(entities | {"desc": name}, suffix))

    def beside_named(self, stem: str) -> Path:
        """Give the path with another stem and the volume's suffix."""
        return self.volume.with_name(stem + self.volume.name[len(volume_stem(self.volume)) :])

    def told(self) -> dict[str, Any]:
        return {
            "Description": "Thin slices from thick ones, by super-resolution. Not for diagnostic use.",
            "Sources": [f"bids:{_LINK}:{self.scan}"],
            "SkullStripped": self.skull_stripped,
        }


def root_of(path: Path) -> Path | None:
    """Give the data set that a path lies in: the nearest folder at or above it with a description; None: no such."""
    path = Path(os.path.abspath(path))
    return next((folder for folder in (path, *path.parents) if (folder / DESCRIPTION).is_file()), None)


def is_scan_name(path: Path) -> bool:
    """Tell whether a file is named as one of a subject: entities from `sub-` on, and a suffix."""
    return _NAME.fullmatch(volume_stem(path)) is not None


def why_no_scan(path: Path, root: Path) -> str | None:
    """Say why a file of a data set is no anatomical scan of it, a clause; None: it is one."""
    root = Path(os.path.abspath(root))
    inner = Path(os.path.abspath(path)).relative_to(root).parts
    if inner[0] in _ASIDE or root_of(path) != root:
        return "not among the data set's own scans"
    if not is_scan_name(path):
        return "not named as BIDS has it"
    return None if _ANATOMY in inner[:-1] else "no anatomical scan"


def place_of(scan: Path, root: Path, out: Path) -> BidsPlace:
    """Say where the result of a scan goes: as the scan, with `rec-SR` in its name.

    Args:
        scan: at or below the root.
        root: of its data set.
        out: of the derivative.

    Raises:
        InputError: not named as a scan of a subject.
    """
    if not is_scan_name(scan):
        raise InputError(
            f"{scan}: not named as BIDS has it (sub-01_T2w.nii.gz)",
            remedy="rename it, or leave bids out",
            options=("bids",),
        )
    inner = Path(os.path.abspath(scan)).relative_to(os.path.abspath(root))
    entities, suffix = parsed(volume_stem(scan))
    entities[_ENTITY] = entities.get(_ENTITY, "") + _LABEL
    stripped = known(scan.with_name(f"{volume_stem(scan)}.json")).get("SkullStripped") is True
    return BidsPlace(out / inner.parent / f"{_spelled(entities, suffix)}.nii.gz", inner.as_posix(), stripped)


def describe_dataset(out: Path, root: Path) -> Path:
    """Describe a derivative: what it is, what made it and of what; what describes it already, as ours, is kept.

    Args:
        out: its folder.
        root: of the data set that it is made of.

    Raises:
        OutputError: the folder is another data set, or cannot be written.
    """
    path, source = out / DESCRIPTION, known(root / DESCRIPTION)
    if path.exists():
        made = known(path).get("GeneratedBy")
        if not (
            isinstance(made, list)
            and any(isinstance(one, dict) and one.get("Name") == "srcyc" for one in made)
        ):
            raise OutputError(f"{out}: is a data set that srcyc did not make", remedy="choose another folder")
        return path
    origin = {
        key: source[theirs]
        for key, theirs in (("DOI", "DatasetDOI"), ("Version", "DatasetVersion"))
        if isinstance(source.get(theirs), str)
    }
    document = {
        "Name": f"{source.get('Name') or root.name}: super-resolved",
        "BIDSVersion": _VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "srcyc",
                "Version": __version__,
                "Description": "Super-resolution. Not for diagnostic use.",
            }
        ],
        "SourceDatasets": [{"URL": f"bids:{_LINK}:", **origin}],
        "DatasetLinks": {_LINK: Path(os.path.relpath(root, out)).as_posix()},
    }
    if isinstance(source.get("License"), str):
        document["License"] = source["License"]
    write_text(out / "README.md", _README.format(version=__version__, source=source.get("Name") or root.name))
    write_text(out / ".bidsignore", _IGNORED)
    return write_json(path, document)


def parsed(stem: str) -> tuple[dict[str, str], str]:
    """Split the stem of a file's name into its entities and its suffix."""
    *pairs, suffix = stem.split("_")
    return dict(pair.split("-", 1) for pair in pairs), suffix


def _spelled(entities: dict[str, str], suffix: str) -> str:
    def rank(entity: str) -> int:
        return _ORDER.index(entity) if entity in _ORDER else len(_ORDER)

    return "_".join([*(f"{key}-{entities[key]}" for key in sorted(entities, key=rank)), suffix])
