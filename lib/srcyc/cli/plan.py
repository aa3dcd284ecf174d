"""Which scan goes where: inputs found, outputs named and checked before anything is computed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srcyc.errors import InputError, OutputError
from srcyc.files import sha256

if TYPE_CHECKING:
    from srcyc.dicom import LeftOut
    from srcyc.inference.results import Place

#: Added to the input's stem when the output is a folder.
OUTPUT_ENDING = "_sr"
OUTPUT_SUFFIX = ".nii.gz"
_TOLD = 5


@dataclass(frozen=True)
class Job:
    """One scan to super-resolve.

    Attributes:
        source: volume file or folder of a DICOM series.
        output: volume file to write.
        problem: why it cannot be done, found while planning.
        done: the output is there already and is kept.
    """

    source: Path
    output: Path
    problem: InputError | None = None
    done: bool = False

    @property
    def place(self) -> Place:
        """The output, and what lies beside it."""
        from srcyc.inference.results import Place

        return Place(self.output)


@dataclass(frozen=True)
class Sources:
    """What the inputs of a command stand for.

    Attributes:
        scans: volumes and addresses of DICOM series, without repetition, in the order given.
        bad: inputs that are none, and why.
        left_out: volumes in folders that srcyc made itself.
        no_scans: DICOM files that are no part of a scan, with the reason.
    """

    scans: list[Path]
    bad: list[tuple[Path, InputError]]
    left_out: int
    no_scans: list[LeftOut] = field(default_factory=list)


def find_sources(inputs: Sequence[Path], series: Sequence[str] = ()) -> Sources:
    """Expand folders to the volumes in them; of DICOM to its series, or to those chosen.

    Volumes that srcyc made (their sidecar says so) are left out of folders.

    Args:
        inputs: volumes, folders, DICOM files of many frames.
        series: numbers, descriptions or UIDs of the DICOM series wanted; every input has to hold each.
    """
    scans: list[Path] = []
    bad: list[tuple[Path, InputError]] = []
    seen: set[Path] = set()
    no_scans: list[LeftOut] = []
    left_out = 0
    for given in inputs:
        if given.name in ("", ".."):
            given = Path(os.path.abspath(given))  # `.` has no name that an output could get
        try:
            found, own, others = _volumes(given, series)
        except InputError as error:
            bad.append((given, error))
            continue
        except OSError as error:
            reason = error.strerror or error
            bad.append((given, InputError(f"{given}: cannot be read ({reason}); check its permissions.")))
            continue
        left_out += own
        no_scans += others
        for path in found:
            place = path.resolve()
            if place not in seen:
                seen.add(place)
                scans.append(path)
    return Sources(scans, bad, left_out, no_scans)


def _volumes(given: Path, series: Sequence[str]) -> tuple[list[Path], int, list[LeftOut]]:
    """Give the volumes that one input stands for, how many of srcyc's own and what DICOM was left out.

    Raises:
        InputError: a folder without any, or without the series wanted.
    """
    from srcyc.dicom import choose, is_dicom_file, is_directory_file, list_series
    from srcyc.volume import find_volumes

    if is_directory_file(given) and given.is_file():
        given = given.parent
    is_folder = given.is_dir()
    if not (is_folder or series or is_dicom_file(given)):
        return [given], 0, []
    if series:
        if not (is_folder or is_dicom_file(given)):
            raise InputError(f"{given}: no DICOM, it has no series; leave --series out.")
        listing = list_series(given)
        return [one.address for name in series for one in choose(listing, name, given)], 0, []
    if not is_folder:
        return [one.address for one in list_series(given).series] or [given], 0, []
    found = find_volumes(given)
    scans = [path for path in found if not _made_by_srcyc(path)]
    no_scans = list_series(given).told()
    if not scans:
        what = "only volumes that srcyc made" if found else "no volume"
        told = f" ({'; '.join(one.reason for one in no_scans[:_TOLD])})" if no_scans else ""
        raise InputError(
            f"{given}: {what} in this folder{told}; give one with .nii, .nii.gz, .nrrd, .mha or .mhd files, or of a "
            "DICOM series, or choose a series by --series."
        )
    return scans, len(found) - len(scans), no_scans


def plan_jobs(
    sources: Sequence[Path], out: Path, *, overwrite: bool, preview: bool = False, maps: Sequence[str] = ()
) -> list[Job]:
    """Name the output of every source and see whether it may be written.

    Args:
        sources: scans.
        out: a file for one scan (it has a volume suffix), else a folder.
        overwrite: existing outputs are replaced.
        preview: a picture is written beside each volume.
        maps: so are these, by their names.

    Raises:
        OutputError: one file named for several scans, or a name that is neither a volume nor a folder.
    """
    from srcyc.image_files import known_suffixes, volume_suffix

    if volume_suffix(out) is not None and not out.is_dir():
        if len(sources) != 1:
            named = "; ".join(path.name for path in sources[:_TOLD]) + "; ..." * (len(sources) > _TOLD)
            raise OutputError(
                f"{out}: one file for {len(sources)} scans ({named}); give a folder as --output, or choose one, of "
                "DICOM by --series."
            )
        outputs = [out]
    elif out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is neither a folder nor ends in {known_suffixes()}; give one of these.")
    elif out.suffix and not out.is_dir():
        raise OutputError(
            f"{out}: unknown kind of volume {out.suffix!r}; let the name end in {known_suffixes()}, or create the "
            "folder of that name first."
        )
    else:
        outputs = [out / f"{name}{OUTPUT_ENDING}{OUTPUT_SUFFIX}" for name in unique_names(sources)]
    repeated = {path for path in outputs if outputs.count(path) > 1}
    jobs = []
    for source, output in zip(sources, outputs, strict=True):
        job = Job(source, output)
        try:
            if output in repeated:
                raise OutputError(
                    f"{source}: another input would be written to {output} too; run them one by one."
                )
            companions = [job.place.sidecar]
            companions += [job.place.preview] if preview else []
            companions += [job.place.map(name) for name in maps]
            done = _check_place(job, overwrite=overwrite, companions=companions)
        except InputError as error:
            job = Job(source, output, problem=error)
        else:
            job = Job(source, output, done=done)
        jobs.append(job)
    return jobs


def unique_names(sources: Sequence[Path]) -> list[str]:
    """Name each scan by its stem; scans of equal stem by as much of their folders as tells them apart."""
    from srcyc.inference.results import volume_stem

    # abspath, not resolve: the target of a link may have a meaningless name (DataLad, git-annex).
    paths = [Path(os.path.abspath(path)) for path in sources]
    names = [volume_stem(path) for path in paths]
    for name in {name for name in names if names.count(name) > 1}:
        group = [index for index, other in enumerate(names) if other == name]
        folders = [paths[index].parent for index in group]
        common = Path(os.path.commonpath(folders))
        for index, folder in zip(group, folders, strict=True):
            names[index] = "_".join((*folder.relative_to(common).parts, name))
    return names


def prepare_folder(folder: Path) -> list[Path]:
    """Create an output folder and see that files can be written into it, before hours are spent.

    Returns:
        the folders created, outermost first.

    Raises:
        OutputError: it cannot be created or written.
    """
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".srcyc-") as probe:
            probe.write(b"0")
    except OSError as error:
        remove_empty(created)
        reason = error.strerror or error
        raise OutputError(
            f"{folder}: cannot be written ({reason}); choose another folder as --output."
        ) from error
    return created


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that :func:`prepare_folder` created and that nothing was written to."""
    for folder in reversed(folders):
        try:
            folder.rmdir()
        except OSError:  # not there, or in use by now
            return


# -- checks --------------------------------------------------------------------------------------------------


def _check_place(job: Job, *, overwrite: bool, companions: Sequence[Path]) -> bool:
    """Tell whether an output is there and is kept.

    Raises:
        OutputError: it would replace the input, another scan's output, or something that is not ours.
    """
    from srcyc.dicom import is_series_address

    output = job.output
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; give a file name.")
    if output.exists() and job.source.exists() and output.samefile(job.source):
        raise OutputError(f"{output}: is the input itself; give another name as --output.")
    if overwrite or not (job.source.exists() or is_series_address(job.source)):
        return False
    sidecar = read_sidecar(job.place.sidecar)
    if output.exists():
        if other := _other_input(sidecar, job.source):
            raise OutputError(
                f"{output}: already exists and was made of {other}, not of {job.source}; choose another --output or "
                "give --overwrite."
            )
        return True
    # A sidecar without its volume is what a killed run leaves behind.
    if sidecar.get("output") == output.name:
        return False
    for companion in companions:
        if companion.exists():
            raise OutputError(
                f"{companion}: already exists and belongs to something else; choose another --output or give "
                "--overwrite."
            )
    return False


def _other_input(sidecar: dict[str, Any], source: Path) -> str | None:
    """Tell what an existing output was made of when that is not ``source``."""
    made_of = sidecar.get("input")
    if not isinstance(made_of, dict) or not made_of.get("name"):
        return None
    if made_of["name"] != source.name:
        return str(made_of["name"])
    # Scans of many people have the same name, so the name proves nothing.
    digest = made_of.get("sha256")
    if digest and (found := _digest(source)) and digest != found:
        return f"another {source.name}"
    return None


def _digest(source: Path) -> str | None:
    """Hash a scan's files as its sidecar would; None where they cannot be told, which its reader will say."""
    from srcyc.dicom import files_of

    try:
        return sha256(source) if source.is_file() else sha256(source, files_of(source))
    except (InputError, OSError):
        return None


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read a sidecar; empty if there is none, or it is not one of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(document, dict) and str(document.get("software", "")).startswith("srcyc")
    return document if ours else {}


def _made_by_srcyc(path: Path) -> bool:
    """Tell whether a file is a result or a map of one, by the sidecar beside it."""
    from srcyc.inference.results import MAPS, SIDECAR_SUFFIX, volume_stem

    if not path.is_file():
        return False
    stem = volume_stem(path)
    for name, ending in (("output", ""), *((name, f"_{name}") for name in MAPS)):
        sidecar = path.with_name(stem.removesuffix(ending) + SIDECAR_SUFFIX)
        if stem.endswith(ending) and read_sidecar(sidecar).get(name) == path.name:
            return True
    return False
