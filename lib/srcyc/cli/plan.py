"""Which scan goes where: inputs found, outputs named and checked before anything is computed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from srcyc.errors import InputError, OutputError
from srcyc.files import make_folder, writing
from srcyc.inference.finished import Asked, is_finished, read_sidecar

if TYPE_CHECKING:
    from srcyc.inference.results import Place
    from srcyc.volumes.dicom import LeftOut

#: Added to the input's stem when the output is a folder.
OUTPUT_ENDING = "_sr"
OUTPUT_SUFFIX = ".nii.gz"
_TOLD = 5


@dataclass(frozen=True)
class Job:
    """One scan to super-resolve.

    Attributes:
        source: volume file or folder of a DICOM series.
        place: where the result goes.
        problem: why it cannot be done, found while planning.
        done: the output is there already and is kept.
    """

    source: Path
    place: Place
    problem: InputError | None = None
    done: bool = False

    @property
    def output(self) -> Path:
        """The volume, or the folder of a DICOM series."""
        return self.place.volume


@dataclass(frozen=True)
class Sources:
    """What the inputs of a command stand for.

    Attributes:
        scans: volumes and addresses of DICOM series, without repetition, in the order given.
        bad: inputs that are none, and why.
        left_out: what in folders is no scan, with the reason.
        roots: of scans that were found in a folder, that folder.
    """

    scans: list[Path]
    bad: list[tuple[Path, Exception]]
    left_out: list[LeftOut] = field(default_factory=list)
    roots: dict[Path, Path] = field(default_factory=dict)


def find_sources(inputs: Sequence[Path], series: Sequence[str] = ()) -> Sources:
    """Expand folders to the volumes at and below them; of DICOM to its series, or to those chosen.

    Volumes that srcyc made (their sidecar says so) are left out of folders.

    Args:
        inputs: volumes, folders, DICOM files of many frames.
        series: numbers, descriptions or UIDs of the DICOM series wanted; every input has to hold each.
    """
    from srcyc.volumes.dicom import LeftOut
    from srcyc.volumes.image_files import header_file

    sources = Sources([], [])
    seen: dict[Path, Path] = {}
    for given in inputs:
        if given.name in ("", ".."):
            given = Path(os.path.abspath(given))  # `.` has no name that an output could get
        try:
            found, others = _volumes(header_file(given), series)
        except (InputError, OSError) as error:
            sources.bad.append((given, error))
            continue
        sources.left_out.extend(others)
        for path in found:
            first = seen.setdefault(path.resolve(), path)
            if first is path:
                sources.scans.append(path)
                if given.is_dir():
                    sources.roots[path] = given
            elif os.path.abspath(first) != os.path.abspath(path):
                sources.left_out.append(LeftOut((path,), f"the same file as {first}"))
    if len(inputs) > 1:
        _refuse_parts(sources)
    return sources


def _refuse_parts(sources: Sources) -> None:
    """Refuse inputs that hold a part of a series each: of one folder they would be one scan."""
    from srcyc.volumes.dicom import is_series_address, parts_of_one_series

    for parts in parts_of_one_series(
        path for path in sources.scans if path.is_dir() or is_series_address(path)
    ):
        for path in parts:
            other = next(part for part in parts if part != path)
            sources.scans.remove(path)
            problem = (
                f"{path}: holds a part of a series that goes on in {other}; give one folder that holds both."
            )
            sources.bad.append((path, InputError(problem)))


def _volumes(given: Path, series: Sequence[str]) -> tuple[list[Path], list[LeftOut]]:
    """Give the volumes that one input stands for, and what was left out.

    Raises:
        InputError: a folder without any, or without the series wanted.
    """
    from srcyc.volumes.dicom import LeftOut, choose, is_dicom_file, is_directory_file, list_series
    from srcyc.volumes.finding import survey
    from srcyc.volumes.image_files import known_suffixes

    if is_directory_file(given) and given.is_file():
        given = given.parent
    is_folder = given.is_dir()
    if not (is_folder or series or is_dicom_file(given)):
        return [given], []
    if series:
        if not (is_folder or is_dicom_file(given)):
            raise InputError(f"{given}: no DICOM, it has no series; leave --series out.")
        listing = list_series(given)
        return [one.address for name in series for one in choose(listing, name, given)], []
    if not is_folder:
        return [one.address for one in list_series(given).series] or [given], []
    found = survey(given)
    made = tuple(path for path in found.volumes if _made_by_srcyc(path))
    scans = [path for path in found.volumes if path not in made]
    left_out = [one for one in map(_foreign, found.left_out) if one.files]
    if not scans:
        what = "only volumes that srcyc made" if made else "no volume"
        told = f" ({'; '.join(one.reason for one in left_out[:_TOLD])})" if left_out else ""
        raise InputError(
            f"{given}: {what} in this folder{told}; give one with {known_suffixes()} files, or of a DICOM series, or "
            "choose a series by --series."
        )
    return scans, [*left_out, *([LeftOut(made, "made by srcyc")] if made else [])]


def _foreign(left_out: LeftOut) -> LeftOut:
    """Leave out of what was left out the sidecars and pictures of srcyc's own results, even without these."""
    ours = {
        file
        for file in left_out.files
        if file.suffix in (".json", ".png") and read_sidecar(file.with_suffix(".json"))
    }
    return replace(left_out, files=tuple(file for file in left_out.files if file not in ours))


def plan_jobs(
    sources: Sequence[Path],
    out: Path,
    *,
    keep: Asked | None,
    preview: bool = False,
    maps: Sequence[str] = (),
    roots: Mapping[Path, Path] | None = None,
    suffix: str | None = None,
) -> list[Job]:
    """Name the output of every source and see whether it may be written.

    Args:
        sources: scans.
        out: a file for one scan (it has a volume suffix), else a folder.
        keep: existing outputs that are this already are kept, others are in the way; None: all are replaced.
        preview: a picture is written beside each volume.
        maps: so are these, by their names.
        roots: folders whose tree the outputs keep, of the sources that were found in one.
        suffix: of the outputs, empty for DICOM series; None: what the name of the file says, else `.nii.gz`.

    Raises:
        OutputError: one file named for several scans, or a name that is neither a volume nor a folder.
    """
    from srcyc.inference.results import Place
    from srcyc.volumes.image_files import require_writable, volume_suffix, written_suffixes

    named = volume_suffix(out) if not out.is_dir() else None
    if named is not None and suffix not in (None, named):
        wanted = f"end in {suffix}" if suffix else "be a folder, for DICOM series"
        raise OutputError(f"{out}: let the name {wanted}, or leave --format out.")
    if named is not None:
        require_writable(out)
        if len(sources) != 1:
            listed = "; ".join(path.name for path in sources[:_TOLD]) + "; ..." * (len(sources) > _TOLD)
            raise OutputError(
                f"{out}: one file for {len(sources)} scans ({listed}); give a folder as --output, or choose one, of "
                "DICOM by --series."
            )
        outputs = [out]
    elif out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is neither a folder nor ends in {written_suffixes()}; give one of these.")
    elif out.suffix and not out.is_dir():
        raise OutputError(
            f"{out}: unknown kind of volume {out.suffix!r}; let the name end in {written_suffixes()}, or create the "
            "folder of that name first."
        )
    else:
        names = unique_names(sources, roots)
        ending = OUTPUT_ENDING + (OUTPUT_SUFFIX if suffix is None else suffix)
        outputs = [out / f"{name}{ending}" for name in names]
    return check_jobs(
        [Job(source, Place(output)) for source, output in zip(sources, outputs, strict=True)],
        keep=keep,
        preview=preview,
        maps=maps,
    )


def check_jobs(
    wanted: Sequence[Job], *, keep: Asked | None, preview: bool = False, maps: Sequence[str] = ()
) -> list[Job]:
    """See of jobs whether their outputs may be written; arguments as for :func:`plan_jobs`."""
    jobs = []
    for job in wanted:
        try:
            companions = [job.place.sidecar]
            companions += [job.place.preview] if preview else []
            companions += [job.place.map(name) for name in maps]
            done = _check_place(job, keep=keep, companions=companions)
        except InputError as error:
            job = replace(job, problem=error)
        else:
            job = replace(job, done=done)
        jobs.append(job)
    return jobs


def plan_derivative(scans: Sequence[Path], out: Path) -> tuple[list[Job], list[LeftOut]]:
    """Name the outputs of the scans of one BIDS data set, and describe the derivative that they make.

    Returns:
        the jobs, and what is no scan of the data set.

    Raises:
        InputError: no BIDS data set, or several.
        OutputError: the output is another data set, or the source itself.
    """
    from srcyc.inference import bids
    from srcyc.volumes.dicom import LeftOut

    roots = {root for root in map(bids.root_of, scans) if root is not None}
    outer = {root for root in roots if not any(other != root and other in root.parents for other in roots)}
    if len(outer) != 1:
        found = "; ".join(sorted(str(root) for root in outer)) or "none has a dataset_description.json"
        raise InputError(
            f"--bids: the scans are not of one BIDS data set ({found}); give one, or leave --bids out."
        )
    (root,) = outer
    if os.path.realpath(out) == os.path.realpath(root):
        raise OutputError(
            f"{out}: is the data set itself; give a folder like {root / 'derivatives' / 'srcyc'}."
        )
    reasons = {scan: bids.why_no_scan(scan, root) for scan in scans}
    left_out = [LeftOut((scan,), reason) for scan, reason in reasons.items() if reason is not None]
    jobs = [Job(scan, bids.place_of(scan, root, out)) for scan, reason in reasons.items() if reason is None]
    if jobs:
        prepare_folder(out)
        bids.describe_dataset(out, root)
    return jobs, left_out


def unique_names(sources: Sequence[Path], roots: Mapping[Path, Path] | None = None) -> list[str]:
    """Name each scan by its stem, in the tree of the folder that it was found in; no two alike.

    Scans of equal name are told apart by as much of their folders as it takes, then by their suffixes, then by numbers.

    Args:
        sources: scans.
        roots: see :func:`plan_jobs`.

    Returns:
        paths with ``/``, relative to the folder of the outputs.
    """
    from srcyc.volumes.volume import volume_stem

    # abspath, not resolve: the target of a link may have a meaningless name (DataLad, git-annex).
    paths = [Path(os.path.abspath(path)) for path in sources]
    bases = [Path(os.path.abspath((roots or {}).get(source, source.parent))) for source in sources]
    trees = [
        () if path == base else path.relative_to(base).parts[:-1]
        for path, base in zip(paths, bases, strict=True)
    ]
    stems = [volume_stem(path) for path in paths]
    names = ["/".join((*tree, stem)) for tree, stem in zip(trees, stems, strict=True)]
    for group in _equal(names):
        common = Path(os.path.commonpath([bases[index] for index in group]))
        for index in group:
            more = bases[index].relative_to(common).parts
            joined = (
                ("_".join((*more, stems[index])),)
                if not trees[index]
                else (*more, *trees[index], stems[index])
            )
            names[index] = "/".join(joined)
    for group in _equal(names):
        for index in group:
            suffix = paths[index].name[len(stems[index]) :]
            names[index] += suffix.lower().replace(".", "_")
    taken = {name.casefold() for name in names}
    for group in _equal(names):
        for index in group[1:]:
            number = 2
            while f"{names[index]}_{number}".casefold() in taken:
                number += 1
            names[index] = f"{names[index]}_{number}"
            taken.add(names[index].casefold())
    return names


def _equal(names: Sequence[str]) -> list[list[int]]:
    """Give the indices of names that are equal, also for file systems that do not tell capitals from small letters."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name.casefold(), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def prepare_folder(folder: Path) -> list[Path]:
    """Create an output folder and see that files can be written into it, before hours are spent.

    Returns:
        the folders created, outermost first.

    Raises:
        OutputError: it cannot be created or written.
    """
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)][::-1]
    try:
        make_folder(folder)
        with writing(folder), tempfile.TemporaryFile(dir=folder, prefix=".srcyc-") as probe:
            probe.write(b"0")
    except OutputError:
        remove_empty(created)
        raise
    return created


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that :func:`prepare_folder` created and that nothing was written to."""
    for folder in reversed(folders):
        try:
            folder.rmdir()
        except OSError:  # not there, or in use by now
            return


# -- checks --------------------------------------------------------------------------------------------------


def _check_place(job: Job, *, keep: Asked | None, companions: Sequence[Path]) -> bool:
    """Tell whether an output is there and is kept.

    Raises:
        OutputError: it would replace the input, an output that is something else, or what is not ours.
    """
    from srcyc.volumes.dicom import is_series_address

    output = job.output
    if output.is_dir() and not job.place.is_series:
        raise OutputError(f"{output}: is a folder; give a file name.")
    if output.is_file() and job.place.is_series:
        raise OutputError(
            f"{output}: is a file where the folder of a series should be; choose another --output."
        )
    if output.exists() and job.source.exists() and output.samefile(job.source):
        raise OutputError(f"{output}: is the input itself; give another name as --output.")
    if keep is None or not (job.source.exists() or is_series_address(job.source)):
        return False
    # Of a file that no sidecar of ours speaks of nothing is known: it is kept, as any output that exists.
    if (output.exists() and not read_sidecar(job.place.sidecar)) or is_finished(
        job.place, [job.source], keep
    ):
        return True
    # A sidecar without its volume is what a killed run leaves behind.
    if read_sidecar(job.place.sidecar).get("output") == output.name:
        return False
    for companion in companions:
        if companion.exists():
            raise OutputError(
                f"{companion}: already exists and belongs to something else; choose another --output or give "
                "--overwrite."
            )
    return False


def _made_by_srcyc(path: Path) -> bool:
    """Tell whether a scan is a result or a map of one, by the sidecar beside it, or of DICOM by what it says itself."""
    from srcyc.inference.results import LABELS, MAPS, SIDECAR_SUFFIX
    from srcyc.volumes.dicom import is_dicom_file, made_by_srcyc
    from srcyc.volumes.volume import volume_stem

    if not path.is_file() or is_dicom_file(path):
        return made_by_srcyc(path)
    stem = volume_stem(path)
    for name in MAPS:  # as BIDS has it: sub-01_rec-SR_desc-uncertainty_T2w
        sidecar = path.with_name(stem.replace(f"_desc-{name}", "") + SIDECAR_SUFFIX)
        if f"_desc-{name}_" in stem and read_sidecar(sidecar).get(name) == path.name:
            return True
    for name, ending in (("output", ""), *((name, f"_{name}") for name in (*MAPS, LABELS))):
        sidecar = path.with_name(stem.removesuffix(ending) + SIDECAR_SUFFIX)
        if stem.endswith(ending) and read_sidecar(sidecar).get(name) == path.name:
            return True
    return False
