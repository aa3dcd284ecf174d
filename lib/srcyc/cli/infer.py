"""`srcyc infer`: super-resolve scans."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import EXIT_BAD_INPUT, EXIT_FAILURE, Console, sentence_of, show_error, worst
from srcyc.cli.options import Inference, PacsLogin, Shard, with_inference
from srcyc.cli.pacs import Pacs
from srcyc.cli.plan import (
    Job,
    check_jobs,
    find_sources,
    plan_derivative,
    plan_jobs,
    prepare_folder,
    remove_empty,
)
from srcyc.errors import ConfigError, InputError, LabelMapError, SRCycError
from srcyc.inference.finished import Asked
from srcyc.inference.overlap import Check, computing, in_order, read, writing

if TYPE_CHECKING:
    from srcyc.inference.super_resolver import SuperResolver
    from srcyc.volumes.dicom import LeftOut
    from srcyc.volumes.volume import Volume


#: Kinds of files that results are written as; of DICOM it is a folder.
FORMATS = ("nii.gz", "nii", "nrrd", "mha", "mgz", "dicom", "dicom-enhanced")

#: Files left out for one reason that the summary names.
_TOLD = 20


class Status(str, Enum):
    """What became of one input."""

    WRITTEN = "written"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"

    @property
    def exit_code(self) -> int:
        """Of a command that comes to this."""
        return {Status.REFUSED: EXIT_BAD_INPUT, Status.FAILED: EXIT_FAILURE}.get(self, 0)


@dataclass
class Outcome:
    """What became of one input, for the summary and for ``--json``."""

    input: str
    status: Status
    output: str | None = None
    sidecar: str | None = None
    preview: str | None = None
    maps: dict[str, str] = field(default_factory=dict)
    labels: str | None = None
    message: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    stored: str | None = None

    def forget_files(self) -> None:
        """Name no files: they are gone."""
        self.output = self.sidecar = self.preview = self.labels = None
        self.maps = {}


@dataclass(frozen=True)
class Request:
    """What to do with every scan."""

    inference: Inference
    pacs: Pacs
    keep_type: bool
    preview: bool
    fill_gaps: bool
    labels: Path | None
    suffix: str | None
    stable: bool
    bids: bool
    shard: str | None
    multi_frame: bool

    def more(self) -> dict[str, bool]:
        """Give what else decides on a result, for its sidecar."""
        asked = {"keep_type": self.keep_type, "fill_gaps": self.fill_gaps, "labels": self.labels is not None}
        return {name: True for name, wanted in asked.items() if wanted}


@with_inference()
def infer(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT",
            help="Volumes (.nii .nii.gz .hdr .nrrd .nhdr .mha .mhd .mgz), DICOM series, or folders of any of these, "
            "searched to the bottom.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for one input (its suffix decides the format), else a folder (NAME becomes NAME_sr.nii.gz, in "
            "the tree that it was found in).",
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER|UID|TEXT",
            help="A DICOM series of the input, by number, UID or description; may be repeated. Default: all scans.",
        ),
    ] = None,
    fill_gaps: Annotated[
        bool,
        typer.Option("--fill-gaps", help="Interpolate slices that a DICOM series lacks between others."),
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMATS),
            help="How results are written into a folder; dicom: as series derived from their scans', which have to be "
            "DICOM; dicom-enhanced: in one file each. Default: nii.gz.",
        ),
    ] = None,
    stable_uids: Annotated[
        bool,
        typer.Option("--stable-uids", help="Give a DICOM result the same UIDs each time it is made."),
    ] = False,
    bids: Annotated[
        bool,
        typer.Option(
            "--bids",
            help="The input is (a part of) a BIDS data set, --output a derivative of it: names with rec-SR, sidecars "
            "with Sources.",
        ),
    ] = False,
    *,
    inference: Inference,
    keep_type: Annotated[
        bool, typer.Option("--keep-type", help="Write the scan's integer type, rounded, instead of float32.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write OUT.png: interpolated beside super-resolved.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A label map of the one scan: also written on the result's grid, as OUT_labels.",
        ),
    ] = None,
    from_dicomweb: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Fetch the scans from this DICOMweb server: those of --study, or of --series.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="UID", help="The study whose MR series are wanted."),
    ] = None,
    to_dicomweb: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Store results in this DICOMweb server, all instances or none, the same ones when it is tried again; "
            "--output is not needed then.",
        ),
    ] = None,
    pacs_login: PacsLogin = None,
    shard: Shard = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Super-resolve thick-slice scans.

    Each result gets a sidecar OUT.json that says how it was made. Outputs that exist are skipped; what
    exists and was made of another scan, by another model or with other options is refused. One bad input does not stop
    the rest. What in a folder is no scan (label maps, results, other files) is left out and named.
    Exit code: 0 all written or skipped, 2 some input was refused, 1 something failed.
    """
    console = Console(json=json)
    pacs = Pacs(from_dicomweb, to_dicomweb, pacs_login, study)
    request = Request(
        inference,
        pacs,
        keep_type=keep_type,
        preview=preview,
        fill_gaps=fill_gaps,
        labels=labels,
        suffix=_suffix(format) if to_dicomweb is None else "",
        stable=stable_uids or to_dicomweb is not None,
        bids=bids,
        shard=shard,
        multi_frame=format == "dicom-enhanced",
    )
    if bids and format not in (None, "nii.gz"):
        raise ConfigError(
            f"--format {format}: a BIDS derivative is nii.gz; leave one of --format and --bids out."
        )
    pacs.check(inputs or [], series or [], output, format)
    batch = _Batch(console, request)
    with tempfile.TemporaryDirectory(prefix="srcyc-") as room:
        scans, wanted = inputs or [], series or []
        if from_dicomweb is not None:
            scans, wanted = [pacs.fetch(wanted, Path(room))], []
        made = Path(room) / "results" if output is None else output
        outcomes = batch.run(scans, made, series=wanted, overwrite=overwrite)
    if output is None:
        for outcome in outcomes:
            outcome.forget_files()
    code = worst({outcome.status.exit_code for outcome in outcomes})
    if json:
        console.answer(
            {
                "exit_code": code,
                "results": [_as_dict(outcome) for outcome in outcomes],
                "left_out": [
                    {"files": [str(file) for file in one.files], "reason": one.reason}
                    for one in batch.left_out
                ],
            }
        )
    elif len(outcomes) > 1 or batch.left_out:
        _summarise(console, outcomes, batch.left_out)
    raise typer.Exit(code)


def _suffix(format: str | None) -> str | None:
    """Give the suffix of a format, empty for the one that is a folder.

    Raises:
        ConfigError: there is no such format.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format {format!r}: give one of {', '.join(FORMATS)}.")
    return None if format is None else "" if format.startswith("dicom") else f".{format}"


class _Batch:
    """Scans in their order; the model is loaded when the first readable scan needs it."""

    def __init__(self, console: Console, request: Request) -> None:
        self._console = console
        self._request = request
        self._resolver: SuperResolver | None = None
        self._labels: Volume | None = None
        self.left_out: list[LeftOut] = []

    def run(
        self, inputs: list[Path], output: Path, *, series: Sequence[str] = (), overwrite: bool
    ) -> list[Outcome]:
        """Do all inputs; what is wrong with one becomes its outcome.

        Raises:
            InputError: nothing can be done at all (output place, model).
        """
        sources = find_sources(inputs, series)
        self.left_out = sources.left_out
        outcomes = [self._problem(str(given), error) for given, error in sources.bad]
        if not sources.scans:
            return outcomes
        from srcyc.inference.results import LABELS, MAPS

        wanted = self._request
        inference = wanted.inference
        keep = None if overwrite else Asked(inference.digest(), inference.options, wanted.more())
        maps = [name for name, option in MAPS.items() if getattr(inference.options, option)]
        if wanted.labels is not None:
            maps.append(LABELS)
            given = wanted.labels.resolve()
            sources.scans[:] = [path for path in sources.scans if path.resolve() != given]
            self._labels = _read_labels(wanted.labels, sources.scans)
        if wanted.bids:
            bids_jobs, left_out = plan_derivative(sources.scans, output)
            self.left_out.extend(left_out)
            jobs = check_jobs(bids_jobs, keep=keep, preview=wanted.preview, maps=maps)
        else:
            jobs = plan_jobs(
                sources.scans,
                output,
                keep=keep,
                preview=wanted.preview,
                maps=maps,
                roots=sources.roots,
                suffix=wanted.suffix,
            )
        if wanted.shard is not None:
            from srcyc.inference.batch import shard

            jobs = shard(jobs, wanted.shard)
            if not jobs:  # more parts than scans
                return outcomes
        folders = sorted({job.output.parent for job in jobs if not job.done and job.problem is None})
        created: list[Path] = []
        try:
            for folder in folders:
                created += prepare_folder(folder)
            counts = (
                [f"[{number}/{len(jobs)}] " for number in range(1, len(jobs) + 1)] if len(jobs) > 1 else [""]
            )
            labelled = [(job, f"{count}{job.source}") for job, count in zip(jobs, counts, strict=True)]
            with closing(in_order(lambda one, check: self._one(*one, check), labelled)) as results:
                for (job, label), result in zip(labelled, results, strict=True):
                    outcome = self._told(job, label, result, found=job.source in sources.roots)
                    if outcome is not None:
                        outcomes.append(outcome)
        finally:
            remove_empty(created)
        nothing = "no scan in this folder, only what is left out; give one with scans."
        return outcomes or [self._problem(str(one), InputError(f"{one}: {nothing}")) for one in inputs]

    def _one(self, job: Job, label: str, check: Check) -> Outcome | Exception:
        """Do one job, in any thread, and tell nothing but how far it is; what is wrong is given, not raised."""
        if job.problem is not None:
            return job.problem
        job.place.tidy()
        if job.done:
            message = f"{job.output} exists already; give --overwrite to make it again."
            return Outcome(str(job.source), Status.SKIPPED, str(job.output), message=message)
        try:
            return self._super_resolve(job, label, check)
        except Exception as error:  # noqa: BLE001 - one bad input does not stop the rest
            return error

    def _told(self, job: Job, label: str, result: Outcome | Exception, *, found: bool) -> Outcome | None:
        """Tell what became of a job, and store it where it is wanted; None for what in a folder is no scan."""
        if isinstance(result, _ModelUnusable):
            raise result.cause from result.cause.__cause__
        if found and isinstance(result, LabelMapError):
            from srcyc.volumes.dicom import LeftOut

            self.left_out.append(LeftOut((job.source,), result.fact.removeprefix(f"{job.source}: ")))
            return None
        if isinstance(result, Exception):
            return self._problem(str(job.source), result)
        if result.status is Status.SKIPPED:
            self._console.say(f"{label}: skipped, {result.message}")
        else:
            for warning in result.report["warnings"]:
                self._console.warn(f"{job.source}: {warning}")
            self._console.say(f"{job.output}: {result.message}; {about_slices(result.report)}")
        return self._stored(job, result)

    def _super_resolve(self, job: Job, label: str, check: Check) -> Outcome:
        from srcyc.inference.results import INPUT_TYPE, LABELS, Dicom, write_result
        from srcyc.volumes.dicom.source import DicomSource

        request = self._request
        scan = read(job.source, fill_gaps=request.fill_gaps)
        # What no series can be derived from is refused before anything is computed.
        dicom = (
            Dicom(DicomSource.of(scan), request.stable, request.multi_frame) if job.place.is_series else None
        )
        with computing(check):
            resolver = self._ready()
            with self._console.progress(label) as progress:

                def tell(share: float) -> None:
                    check()
                    progress(share)

                result = resolver(scan, request.inference.options, progress=tell)
        with writing(check):
            written = write_result(
                result,
                scan,
                job.place,
                dtype=INPUT_TYPE if request.keep_type else "float32",
                labels=self._labels,
                more=request.more(),
                preview=request.preview,
                dicom=dicom,
            )
        spacings = f"{_millimetres(scan)} -> {_millimetres(result.volume)}"
        return Outcome(
            str(job.source),
            Status.WRITTEN,
            str(job.output),
            str(job.place.sidecar),
            str(job.place.preview) if request.preview else None,
            {name: str(path) for name, path in written.maps.items()},
            None if self._labels is None else str(job.place.map(LABELS)),
            f"{spacings}, {result.report.seconds:.1f} s",
            written.sidecar,
        )

    def _stored(self, job: Job, outcome: Outcome) -> Outcome:
        """Store the series of a result in the PACS that is wanted; one that fails has its files all the same."""
        from srcyc.inference.results import MAPS

        pacs = self._request.pacs
        if pacs.target is None:
            return outcome
        folders = [folder for folder in (job.output, *map(job.place.map, MAPS)) if folder.is_dir()]
        try:
            sent = pacs.store(folders)
        except SRCycError as error:
            return replace(
                self._problem(str(job.source), error), output=outcome.output, sidecar=outcome.sidecar
            )
        self._console.say(f"{job.source.name}: {sent} instances stored in {pacs.target}")
        return replace(outcome, stored=pacs.target)

    def _ready(self) -> SuperResolver:
        if self._resolver is None:
            try:
                self._resolver = self._request.inference.load()
            except InputError as error:
                raise _ModelUnusable(error) from error
        return self._resolver

    def _problem(self, source: str, error: Exception) -> Outcome:
        sentence, code = sentence_of(error, source)
        show_error(error, source)
        return Outcome(source, Status.REFUSED if code == EXIT_BAD_INPUT else Status.FAILED, message=sentence)


class _ModelUnusable(Exception):
    """The model cannot be loaded, which no further input will change."""

    def __init__(self, cause: InputError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def about_slices(report: dict[str, Any]) -> str:
    """Tell how thick the slices were taken to be, who says so, and by how much they were corrected."""
    thickness, consistency = report["thickness"], report["consistency"]
    said = {
        "stated": "as stated",
        "read": "as the file says",
        "estimated": f"estimated from the scan: {thickness['ratio']:.3g} of their distance",
        "assumed": f"assumed: {thickness['ratio']:.3g} of their distance",
    }[thickness["source"]]
    corrected = consistency["slices_corrected"]
    done = f"corrected by {100 * consistency['correction']:.2g} %" if corrected else "not corrected"
    return f"slices {thickness['millimetres']:.3g} mm thick ({said}), {done}"


def _millimetres(volume: Volume) -> str:
    return " × ".join(f"{mm:.3g}" for mm in volume.spacing) + " mm"


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    from srcyc.inference.results import MAPS

    told = {**vars(outcome), "status": outcome.status.value}
    maps = told.pop("maps")
    return {**told, **{name: maps.get(name) for name in MAPS}}


def _read_labels(path: Path, scans: Sequence[Path]) -> Volume:
    """Read the label map of the one scan.

    Raises:
        InputError: several scans, or no label map.
    """
    from srcyc.volumes.labels import require_labels
    from srcyc.volumes.volume import read_volume

    if not scans:
        raise InputError(f"--labels {path}: is the scan itself; give its label map.")
    if len(scans) != 1:
        raise InputError(f"--labels {path}: one label map for {len(scans)} scans; give one scan.")
    labels = read_volume(path)
    require_labels(labels)
    return labels


def _summarise(console: Console, outcomes: list[Outcome], left_out: list[LeftOut]) -> None:
    console.say()
    for outcome in outcomes:
        where = f" -> {outcome.output}" if outcome.status is Status.WRITTEN else ""
        reason = f": {outcome.message}" if outcome.status in (Status.REFUSED, Status.FAILED) else ""
        console.say(f"{outcome.status.value:8} {outcome.input}{where}{reason}")
    reasons: dict[str, list[Path]] = {}
    for one in left_out:
        if one.series and len(one.files) > 1:
            console.say(f"left out {one.files[0]} and {len(one.files) - 1} more of its series, {one.reason}")
        else:
            reasons.setdefault(one.reason, []).extend(one.files)
    for reason, files in reasons.items():
        for file in files[:_TOLD]:
            console.say(f"left out {file}: {reason}")
        if len(files) > _TOLD:
            console.say(f"left out {len(files) - _TOLD} more (--json names them): {reason}")
    counts = [f"{sum(o.status is status for o in outcomes)} {status.value}" for status in Status]
    counts += [f"{sum(len(one.files) for one in left_out)} left out"] if left_out else []
    console.say(", ".join(counts))
