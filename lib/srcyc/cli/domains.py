"""`srcyc domains`: which scans count as LR, HR, neither, and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from srcyc.cli.console import Console

if TYPE_CHECKING:
    from srcyc.data.domains import AssignedScan

Manifest = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv", help="Columns path,domain,person (LR, HR or neither; paths relative to the file)."
    ),
]


def domains(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Volumes, DICOM series directories, or folders of them."),
    ],
    manifest: Manifest = None,
    json: Annotated[bool, typer.Option("--json", help="Answer for a program.")] = False,
) -> None:
    """Show which scans count as LR (thick slices), HR (thin), or neither, and why."""
    from srcyc.data.domains import assign_domains, read_manifest

    console = Console(json=json)
    scans = assign_domains(paths, manifest=read_manifest(manifest) if manifest else None)
    if json:
        console.answer([asdict(scan) for scan in scans])
        return
    console.table(domain_table(scans))


def domain_table(scans: list[AssignedScan]) -> Table:
    """Lay out scans with their domain, person and reason."""
    table = Table("scan", "domain", "person", "why", box=None)
    for scan in scans:
        table.add_row(scan.path.name, scan.domain.value, scan.person, scan.reason)
    return table
