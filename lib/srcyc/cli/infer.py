"""`srcyc infer`: super-resolve scans."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import EXIT_BAD_INPUT, EXIT_FAILURE, Console, sentence_of, show_error
from srcyc.cli.options import Device, MaxMemory, ModelName, Precision, parse_spacing
from srcyc.cli.plan import (
    PREVIEW_SUFFIX,
    SIDECAR_SUFFIX,
    Job,
    find_sources,
    plan_jobs,
    prepare_folder,
    remove_empty,
)
from srcyc.cli.staging import publish, staging
from srcyc.errors import InputError

if TYPE_CHECKING:
    from srcyc.inference.super_resolver import SuperResolution, SuperResolver
    from srcyc.volume import Volume


class Status(str, Enum):
    """What became of one input."""

    WRITTEN = "written"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass
class Outcome:
    """What became of one input, for the summary and for ``--json``."""

    input: str
    status: Status
    output: str | None = None
    sidecar: str | None = None
    preview: str | None = None
    uncertainty: str | None = None
    message: str = ""
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What to do with every scan."""

    target_spacing: Any
    consistency: bool
    denoise: bool
    n4: bool
    force: bool
    keep_type: bool
    preview: bool
    uncertainty: bool


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Volumes (.nii .nii.gz .nrrd .mha .mhd), folders of a DICOM series, or folders of any of these.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A file for one input (its suffix decides the format), else a folder (NAME becomes NAME_sr.nii.gz).",
            show_default=False,
        ),
    ],
    model: ModelName = None,
    target_spacing: Annotated[
        str,
        typer.Option(
            metavar="isotropic|MM|X,Y,Z",
            help="Voxel size wanted: the scan's finest on every axis, one value, or one per array axis. "
            "No axis is made coarser.",
        ),
    ] = "isotropic",
    device: Device = "auto",
    precision: Precision = "auto",
    max_memory: MaxMemory = None,
    consistency: Annotated[
        bool,
        typer.Option(help="Correct the result so that its thick slices equal the scan's within its noise."),
    ] = True,
    denoise: Annotated[bool, typer.Option("--denoise", help="Reduce the scan's noise first.")] = False,
    n4: Annotated[bool, typer.Option("--n4", help="Correct the scan's bias field (N4) first.")] = False,
    keep_type: Annotated[
        bool, typer.Option("--keep-type", help="Write the scan's integer type, rounded, instead of float32.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write OUT.png: interpolated beside super-resolved.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write OUT_uncertainty: the standard deviation over flips, at four times the cost.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on far outside the model's range.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Super-resolve thick-slice scans.

    Each result gets a sidecar OUT.json that says how it was made. Outputs that exist are skipped, and one bad input
    does not stop the rest. Exit code: 0 all written or skipped, 2 some input was refused, 1 something failed.
    """
    console = Console(json=json)
    request = Request(
        parse_spacing(target_spacing), consistency, denoise, n4, force, keep_type, preview, uncertainty
    )
    outcomes = _Batch(console, request, _loader(model, device, precision, max_memory)).run(
        inputs, output, overwrite=overwrite
    )
    code = exit_code(outcomes)
    if json:
        console.answer({"exit_code": code, "results": [_as_dict(outcome) for outcome in outcomes]})
    elif len(outcomes) > 1:
        _summarise(console, outcomes)
    raise typer.Exit(code)


def exit_code(outcomes: list[Outcome]) -> int:
    """1 if anything failed, else 2 if any input was refused, else 0."""
    found = {outcome.status for outcome in outcomes}
    if Status.FAILED in found:
        return EXIT_FAILURE
    return EXIT_BAD_INPUT if Status.REFUSED in found else 0


def _loader(
    model: str | None, device: str, precision: str, max_memory: float | None
) -> Callable[[], SuperResolver]:
    def load() -> SuperResolver:
        from srcyc.cli.options import load_resolver

        return load_resolver(model, device=device, precision=precision, max_memory=max_memory)

    return load


class _Batch:
    """Scans one after the other; the model is loaded when the first readable scan needs it."""

    def __init__(self, console: Console, request: Request, load: Callable[[], SuperResolver]) -> None:
        self._console = console
        self._request = request
        self._load = load
        self._resolver: SuperResolver | None = None

    def run(self, inputs: list[Path], output: Path, *, overwrite: bool) -> list[Outcome]:
        """Do all inputs; what is wrong with one becomes its outcome.

        Raises:
            InputError: nothing can be done at all (output place, model).
        """
        sources = find_sources(inputs)
        if sources.left_out:
            self._console.say(f"volumes that srcyc made are not taken as inputs: {sources.left_out}.")
        outcomes = [self._problem(str(given), error) for given, error in sources.bad]
        if not sources.scans:
            return outcomes
        wanted = self._request
        jobs = plan_jobs(
            sources.scans, output, overwrite=overwrite, preview=wanted.preview, uncertainty=wanted.uncertainty
        )
        folder = jobs[0].output.parent
        created = prepare_folder(folder) if any(not job.done and job.problem is None for job in jobs) else []
        try:
            for number, job in enumerate(jobs, 1):
                label = f"[{number}/{len(jobs)}] {job.source}" if len(jobs) > 1 else str(job.source)
                outcomes.append(self._one(job, label))
        finally:
            remove_empty(created)
        return outcomes

    def _one(self, job: Job, label: str) -> Outcome:
        if job.problem is not None:
            return self._problem(str(job.source), job.problem)
        if job.done:
            message = f"{job.output} exists already; give --overwrite to make it again."
            self._console.say(f"{label}: skipped, {message}")
            return Outcome(str(job.source), Status.SKIPPED, str(job.output), message=message)
        try:
            return self._super_resolve(job, label)
        except _ModelUnusable as error:
            raise error.cause from error.cause.__cause__
        except Exception as error:  # noqa: BLE001 - one bad input does not stop the rest
            return self._problem(str(job.source), error)

    def _super_resolve(self, job: Job, label: str) -> Outcome:
        from srcyc.volume import read_volume

        start = time.perf_counter()
        scan = read_volume(job.source)
        request = self._request
        resolver = self._ready()
        with self._console.progress(label) as progress:
            result = resolver(
                scan,
                target_spacing=request.target_spacing,
                consistency=request.consistency,
                denoise=request.denoise,
                n4=request.n4,
                force=request.force,
                uncertainty=request.uncertainty,
                progress=progress,
            )
            report = self._write(job, scan, result)
        for warning in report.get("warnings", []):
            self._console.warn(f"{job.source}: {warning}")
        seconds = time.perf_counter() - start
        message = f"{_millimetres(scan)} -> {_millimetres(result.volume)}, {seconds:.1f} s"
        self._console.say(f"{job.output}: {message}")
        return Outcome(
            str(job.source),
            Status.WRITTEN,
            str(job.output),
            str(job.beside(SIDECAR_SUFFIX)),
            str(job.beside(PREVIEW_SUFFIX)) if request.preview else None,
            str(job.uncertainty) if request.uncertainty else None,
            message,
            report,
        )

    def _write(self, job: Job, scan: Volume, result: SuperResolution) -> dict[str, Any]:
        """Write volume, sidecar and preview; give what the sidecar holds."""
        import json

        from srcyc.files import write_text
        from srcyc.inference.output import fit_type
        from srcyc.volume import write_volume

        report = result.report.model_dump(mode="json")
        volume, dtype = result.volume, None
        if self._request.keep_type and scan.stored_dtype.kind in "iu":
            dtype = scan.stored_dtype
            volume, warning = fit_type(volume, dtype)
            report["warnings"] = [*report.get("warnings", []), *warning]
        report["output"] = job.output.name
        report["output_type"] = str(dtype or "float32")
        if result.uncertainty is not None:
            report["uncertainty"] = job.uncertainty.name
        with staging(job.output.parent) as place:
            staged = [
                write_text(
                    place / job.beside(SIDECAR_SUFFIX).name,
                    json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
                )
            ]
            if self._request.preview:
                from srcyc.evaluation.figure import preview_figure

                headline = f"{job.source.name}, super-resolved by {report['model']['name']}"
                staged.append(
                    preview_figure(place / job.beside(PREVIEW_SUFFIX).name, scan, volume, headline=headline)
                )
            if result.uncertainty is not None:
                write_volume(result.uncertainty, place / job.uncertainty.name)
            written = write_volume(volume, place / job.output.name, dtype=dtype)
            # The uncertainty, and the .raw that has to be there before the .mhd that names it.
            staged += sorted(path for path in place.iterdir() if path not in (*staged, written))
            publish([*staged, written], job.output.parent)
        return report

    def _ready(self) -> SuperResolver:
        if self._resolver is None:
            try:
                self._resolver = self._load()
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


def _millimetres(volume: Volume) -> str:
    return " × ".join(f"{mm:.3g}" for mm in volume.spacing) + " mm"


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    return {**vars(outcome), "status": outcome.status.value}


def _summarise(console: Console, outcomes: list[Outcome]) -> None:
    console.say()
    for outcome in outcomes:
        where = f" -> {outcome.output}" if outcome.status is Status.WRITTEN else ""
        reason = f": {outcome.message}" if outcome.status in (Status.REFUSED, Status.FAILED) else ""
        console.say(f"{outcome.status.value:8} {outcome.input}{where}{reason}")
    counts = [f"{sum(o.status is status for o in outcomes)} {status.value}" for status in Status]
    console.say(", ".join(counts))
