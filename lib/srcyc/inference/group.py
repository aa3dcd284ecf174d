"""One table and one page about all results of a derivative, and about the scans that have none."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from srcyc.documents import known, write_json
from srcyc.files import write_text
from srcyc.inference.batch import Done, Work
from srcyc.inference.finished import read_sidecar

#: Files of the report, and the folder of notes on scans without a result.
TABLE, PAGE, NOTES = "group_scans.tsv", "group_report.html", "logs"

_COLUMNS = (
    "scan",
    "status",
    "spacing_from",
    "spacing_to",
    "factor",
    "thickness",
    "thickness_source",
    "noise",
    "correction",
    "residual",
    "seconds",
    "model",
    "warnings",
    "message",
)
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #16202a; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; vertical-align: top; }
th { border-bottom: 2px solid #16202a; } td { border-bottom: 1px solid #d5dbe1; font-variant-numeric: tabular-nums; }
.bad { background: #fdecea; } .warn { color: #8a5a00; } figure { margin: 1rem 0; } img { max-width: 100%; }
figcaption, .faint { color: #5a6672; }
"""


@dataclass(frozen=True)
class Row:
    """One scan: its entry in the table, and its picture."""

    values: dict[str, str]
    warnings: tuple[str, ...]
    picture: Path | None


def note(out: Path, done: Done, scan: str) -> None:
    """Write down why a scan has no result; a result takes the note away.

    Args:
        out: the derivative.
        done: what became of it.
        scan: its path within its data set.
    """
    path = _note_of(out, scan)
    if done.status in ("written", "skipped"):
        path.unlink(missing_ok=True)
        return
    document = {"scan": scan, "status": done.status, "message": done.message, "tries": done.tries}
    write_json(path, document)


def write_report(out: Path, works: Sequence[Work], names: Sequence[str]) -> tuple[Path, Path, list[Row]]:
    """Write the table and the page.

    Args:
        out: the derivative.
        works: all scans that were selected.
        names: of these, their paths within their data set.

    Returns:
        table, page, and what they say.
    """
    rows = [_row(out, work, name) for work, name in zip(works, names, strict=True)]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values for row in rows)
    table = write_text(out / TABLE, text.getvalue())
    return table, write_text(out / PAGE, _page(out, rows)), rows


def _row(out: Path, work: Work, name: str) -> Row:
    sidecar = read_sidecar(work.place.sidecar) if work.place.volume.exists() else {}
    values = dict.fromkeys(_COLUMNS, "n/a") | {"scan": name}
    if not sidecar:
        told = known(_note_of(out, name))
        values["status"] = str(told.get("status", "missing"))
        values["message"] = " ".join(str(told.get("message", "no result yet")).split())
        return Row(values, (), None)
    try:
        told = _told(sidecar)
        warnings = tuple(map(str, sidecar["warnings"]))
    except (KeyError, TypeError, ValueError):
        problem = f"{work.place.sidecar.name} does not say how the result was made: make it again"
        return Row(values | {"status": "unreadable", "message": problem}, (), None)
    picture = work.place.preview
    return Row(values | told, warnings, picture if picture.exists() else None)


def _told(sidecar: Mapping[str, Any]) -> dict[str, str]:
    """Give the entries of a result in the table.

    Raises:
        KeyError, TypeError, ValueError: the sidecar lacks one.
    """
    return {
        "status": "done",
        "spacing_from": _millimetres(sidecar["input"]["spacing"]),
        "spacing_to": _millimetres(sidecar["result"]["spacing"]),
        "factor": f"{sidecar['factor']:.3g}",
        "thickness": f"{sidecar['thickness']['millimetres']:.3g}",
        "thickness_source": str(sidecar["thickness"]["source"]),
        "noise": f"{sidecar['sigma']:.3g}",
        "correction": f"{sidecar['consistency']['correction']:.3g}",
        "residual": f"{sidecar['consistency']['residual']:.3g}",
        "seconds": f"{sidecar['seconds']:.1f}",
        "model": str(sidecar["model"]["name"]),
        "warnings": str(len(sidecar["warnings"])),
    }


def _page(out: Path, rows: Sequence[Row]) -> str:
    done = [row for row in rows if row.values["status"] == "done"]
    warned = [row for row in done if row.warnings]
    facts = (
        f"{len(rows)} scans: {len(done)} done, {len(warned)} of them with warnings, {len(rows) - len(done)} without a "
        "result."
    )
    if done:
        factors = [float(row.values["factor"]) for row in done]
        corrections = [float(row.values["correction"]) for row in done]
        facts += (
            f" Factors {min(factors):.3g} to {max(factors):.3g}; slices corrected by {median(corrections):.2g} "
            "(median, share of the signal)."
        )
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in _COLUMNS)
    body = "".join(
        f"<tr{'' if row.values['status'] == 'done' else ' class=bad'}>"
        + "".join(f"<td>{escape(row.values[name])}</td>" for name in _COLUMNS)
        + "</tr>\n"
        for row in rows
    )
    warnings = "".join(
        f"<li>{escape(row.values['scan'])}: {escape(text)}</li>\n" for row in warned for text in row.warnings
    )
    pictures = "".join(
        f'<figure><img loading="lazy" src="{escape(Path(os.path.relpath(row.picture, out)).as_posix())}" '
        f'alt="interpolated and super-resolved"><figcaption>{escape(row.values["scan"])}</figcaption></figure>\n'
        for row in done
        if row.picture is not None
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>srcyc: group report</title>'
        f"<style>{_STYLE}</style>\n<h1>Super-resolved scans</h1>\n<p>{escape(facts)}</p>\n"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
        + (f'<h2>Warnings</h2>\n<ul class="warn">\n{warnings}</ul>\n' if warnings else "")
        + (f"<h2>Pictures</h2>\n{pictures}" if pictures else "")
        + '<p class="faint">Spacings and thickness in mm; noise in shares of the scan\'s range; correction: by how '
        "much the slices were corrected; residual: what is left of the scan when the result is acquired again. "
        "Research software, not for diagnostic use.</p></html>\n"
    )


def _note_of(out: Path, scan: str) -> Path:
    return out / NOTES / f"{scan.replace('/', '__')}.json"


def _millimetres(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing)
