"""`srcyc bids`: a BIDS App, all thick anatomical scans of a data set; and `--shard` and `--dask` for it."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srcyc.cli.console import EXIT_BAD_INPUT, EXIT_FAILURE, Console
from srcyc.cli.options import Inference, Shard, with_inference
from srcyc.cli.plan import prepare_folder
from srcyc.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Generator

    from srcyc.inference.batch import Done, How, Work

#: A scan has one result here, told by its hashes; maps are for single scans.
_NOT_HERE = ("uncertainty", "correction_map")


class Level(str, Enum):
    """What a BIDS App is asked to do."""

    PARTICIPANT = "participant"
    GROUP = "group"


@with_inference(but=_NOT_HERE)
def bids(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="The data set.")],
    output_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The derivative to make.")],
    level: Annotated[
        Level,
        typer.Argument(
            metavar="{participant,group}",
            help="participant: super-resolve; group: a table and a report about all scans.",
        ),
    ],
    participant_label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Only this participant; may be repeated. Default: all."),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Only this session; may be repeated."),
    ] = None,
    bids_filter_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='What scans have to be, as JSON: {"t2w": {"suffix": "T2w", "acquisition": "ax"}}.',
        ),
    ] = None,
    n_procs: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Scans at a time on this machine; above 1 it needs srcyc[batch]."
        ),
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS",
            help="Let the workers of a Dask cluster do it: that of this scheduler, or one on this machine.",
        ),
    ] = None,
    shard: Shard = None,
    *,
    inference: Inference,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Draw a picture of each, for the report.")
    ] = True,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace results of another scan, by another model or with other options."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Super-resolve the thick anatomical scans of a BIDS data set (a BIDS App).

    A result is kept whose sidecar names the same scan and model, by their hashes, and the same options: the command
    goes on where it was stopped. What was made otherwise is refused. Exit code: 0 all done, 2 some scan was refused,
    1 something failed.
    """
    from srcyc.inference import bids as layout
    from srcyc.inference.batch import How, Work
    from srcyc.inference.bids_selection import read_filters, select
    from srcyc.models.model_file import load_model

    console = Console(json=json)
    how = How(
        inference.path.absolute(),
        inference.digest(),
        inference.options,
        inference.device,
        inference.precision,
        inference.max_memory,
        preview,
        overwrite,
    )
    filters = None if bids_filter_file is None else read_filters(bids_filter_file)
    if output_dir.resolve() == bids_dir.resolve():
        raise OutputError(
            f"{output_dir}: is the data set itself; give a folder like {bids_dir / 'derivatives' / 'srcyc'}."
        )
    found = select(
        bids_dir,
        participants=participant_label or (),
        sessions=session_label or (),
        filters=filters,
        least_factor=load_model(how.model).card.factor_range[0],
    )
    out = output_dir.absolute()
    works = [Work(Path(os.path.abspath(scan)), layout.place_of(scan, bids_dir, out)) for scan in found.scans]
    prepare_folder(output_dir)
    layout.describe_dataset(output_dir, bids_dir)
    if level is Level.GROUP:
        from srcyc.inference.group import write_report

        table, page, rows = write_report(output_dir, works, [_inner(work, bids_dir) for work in works])
        counts = Counter(row.values["status"] for row in rows)
        console.say(f"{table}\n{page}\n{_counted(counts) or 'no thick scans'}")
        if json:
            console.answer({"table": str(table), "report": str(page), "scans": [row.values for row in rows]})
        raise typer.Exit(0)
    if shard is not None:
        from srcyc.inference.batch import shard as part

        works = part(works, shard)
    done = _run(console, works, how, bids_dir, output_dir, dask=dask, n_procs=n_procs)
    counts = Counter(one.status for one in done)
    for path, reason in found.left_out.items():
        console.say(f"left out {path}: {reason}")
    console.say(_counted(counts) or "no thick scans")
    code = EXIT_FAILURE if counts["failed"] else EXIT_BAD_INPUT if counts["refused"] else 0
    if json:
        console.answer(
            {
                "exit_code": code,
                "results": [
                    {
                        "input": str(one.work.source),
                        "status": one.status,
                        "output": str(one.work.place.volume),
                        "tries": one.tries,
                        "message": one.message,
                        "warnings": one.warnings,
                    }
                    for one in done
                ],
                "left_out": {str(path): reason for path, reason in found.left_out.items()},
            }
        )
    raise typer.Exit(code)


def _run(
    console: Console,
    works: list[Work],
    how: How,
    root: Path,
    out: Path,
    *,
    dask: str | None,
    n_procs: int,
) -> list[Done]:
    """Do all, with one bar over them; what has no result is noted for the report."""
    from srcyc.inference.batch import LOCAL, in_turn, on_dask
    from srcyc.inference.group import note

    if dask is not None and dask != LOCAL and n_procs > 1:
        raise ConfigError("--n-procs: the cluster at --dask has its own workers; leave one of the two out.")
    results: Generator[Done, None, None]
    if not works or (dask is None and n_procs == 1):
        results = in_turn(works, how)
    else:
        results = on_dask(works, how, dask or LOCAL, n_procs if n_procs > 1 else None)
    done: list[Done] = []
    with closing(results), console.progress(f"{len(works)} scans") as progress:
        for one in results:
            done.append(one)
            note(out, one, _inner(one.work, root))
            for warning in one.warnings:
                console.warn(f"{one.work.source}: {warning}")
            if one.status in ("refused", "failed"):
                console.error(f"{one.message}" + (f" (tried {one.tries} times)" if one.tries > 1 else ""))
            progress(len(done) / len(works))
    return done


def _inner(work: Work, root: Path) -> str:
    return work.source.relative_to(os.path.abspath(root)).as_posix()


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
