"""The numbers of an evaluation as rows, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from srcyc._version import __version__
from srcyc.documents import write_json
from srcyc.evaluation.metrics import ALIGNMENT_TOLERANCE
from srcyc.evaluation.regions import LARGE
from srcyc.evaluation.rows import Row, ThickRow
from srcyc.evaluation.thick_scans import SCAN
from srcyc.files import write_text
from srcyc.models.card import ScanScore, Scores, ThickScanScore, mean
from srcyc.schema import Schema

#: Files of an evaluation.
TABLE_NAME, THICK_TABLE_NAME, REPORT_NAME = "metrics.csv", "thick_scans.csv", "metrics.json"

#: What the numbers mean; stated in every report.
DEFINITIONS = {
    "simulation": "Gaussian slice profile (FWHM = slice thickness), slices one spacing apart, along the array axis",
    "blur": "FWHM of a Gaussian blur within the slices, in their voxels",
    "box": "shape of the slice profile: 0 a Gaussian, 1 a box of the same FWHM",
    "jitter": "standard deviation of a gain drawn for each slice, as a fraction; the seed is fixed",
    "noise": "standard deviation of Gaussian noise on the slices, as a fraction of the truth's data range",
    "told_ratio": "slice thickness over slice distance that every method was told",
    "classical inverse": "cubic B-spline interpolation corrected by the pseudo-inverse of the scan's acquisition: what "
    "is known without any network",
    "mask": "foreground of the truth (above a tenth of its robust range), closed by 2 voxels, holes filled",
    "data_range": "truth's 0.5th percentile to the 99.5th percentile of its foreground",
    "psnr": "20 log10(data range / RMSE inside the mask), dB",
    "ssim": "3D, Gaussian window of sigma 1.5 voxels, mean inside the mask (Wang et al. 2004); empty where the scan is "
    "smaller than 11 voxels",
    "lpips": "AlexNet v0.1 (Zhang et al. 2018), mean over slices along each axis of the mask's bounding box; less is "
    "better; empty unless asked for, or where the scan is smaller than 31 voxels",
    "*_over_cubic, *_over_classical": "difference to cubic B-spline interpolation, and to the classical inverse",
    "consistency": "||A x - y|| / ||y|| of the result x, the simulated scan y and the acquisition A that was told",
    "shift": f"result against truth by cross-correlation, voxels; above {ALIGNMENT_TOLERANCE} is flagged",
    "slice_gain": "root mean square over the middle half of the slices of the median over the head of "
    "(2 c_i - c_(i-1) - c_(i+1)) / 2 c_i, per cent; of a result x, the slices c are A x",
    "slice_gain_over_scan": "the same over the scan's own; below 1 is less banding",
    "correction": "||delta|| / ||y||: by how much a model changed the slices themselves",
    "uncertainty_rank": "Spearman's rank correlation of the uncertainty and the absolute error inside the mask",
    "uncertainty_share": "share of the squared error in the tenth of the mask's voxels that is least certain; 0.1 is "
    "chance",
    "kept, kept_small": f"contrast of marked regions of {LARGE} voxels and more, and of smaller ones, to a ring around "
    "them in their slices, over the truth's (regression through zero); of a real scan: of A x over the scan's",
}


#: What is said of how slices were spoiled.
_SPOILING = ("jitter", "noise", "blur", "box")
#: What is averaged over rows, as far as it was measured.
_AVERAGED = (
    *Scores.model_fields,
    *("kept", "kept_small", "uncertainty_rank", "uncertainty_share", "consistency"),
)


class Mean(Scores):
    """One method, averaged over the rows of one thickness, or of all (``thickness`` None); spoiled slices apart."""

    model_config = ConfigDict(allow_inf_nan=True)

    jitter: float
    noise: float
    blur: float = 0.0
    box: float = 0.0
    thickness: float | None
    method: str
    rows: int
    least_over_classical: float
    kept: float | None = None
    kept_small: float | None = None
    uncertainty_rank: float | None = None
    uncertainty_share: float | None = None
    consistency: float
    aligned: bool


def means_of(rows: Iterable[Row]) -> list[Mean]:
    """Average over scans and axes, per thickness and method, in the order they first appear; then over thicknesses.

    Slices that are spoiled in another way are another group.
    """
    rows = list(rows)
    several = len({row.thickness for row in rows}) > 1
    groups: dict[tuple[tuple[float, ...], float | None, str], list[Row]] = {}
    for spoiling in dict.fromkeys(map(_spoiling, rows)):
        same = [row for row in rows if _spoiling(row) == spoiling]
        for row in same:
            groups.setdefault((spoiling, row.thickness, row.method), []).append(row)
        for row in same if several else ():
            groups.setdefault((spoiling, None, row.method), []).append(row)
    return [
        Mean(
            **dict(zip(_SPOILING, spoiling, strict=True)),
            thickness=thickness,
            method=method,
            rows=len(group),
            least_over_classical=min(row.psnr_over_classical for row in group),
            **_averages(group),
            aligned=all(row.aligned for row in group),
        )
        for (spoiling, thickness, method), group in groups.items()
    ]


def _averages(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: mean(getattr(row, name) for row in rows) for name in _AVERAGED}


def _spoiling(row: Row) -> tuple[float, ...]:
    return tuple(getattr(row, name) for name in _SPOILING)


def scores_of(rows: Iterable[Row], method: str) -> tuple[ScanScore, ...]:
    """Give one method's rows as a model card has them."""
    fields = set(ScanScore.model_fields)
    return tuple(
        ScanScore(**{name: _rounded(value) for name, value in row.model_dump().items() if name in fields})
        for row in rows
        if row.method == method
    )


def thick_scores_of(rows: Sequence[ThickRow], method: str) -> tuple[ThickScanScore, ...]:
    """Give one method's rows on real scans as a model card has them."""
    own = {row.scan: row.slice_gain for row in rows if row.method == SCAN}
    return tuple(
        ThickScanScore(
            scan=row.scan,
            contrast=row.contrast,
            slice_gain=_rounded(own[row.scan]),
            slice_gain_after=_rounded(row.slice_gain),
            correction=round(row.correction, 4),
        )
        for row in rows
        if row.method == method
    )


def report_of(
    rows: Sequence[Row],
    thick_rows: Sequence[ThickRow] = (),
    *,
    models: Sequence[dict[str, Any]],
    figures: Sequence[str],
) -> dict[str, Any]:
    """Assemble what ``metrics.json`` holds.

    Args:
        rows: all scores on simulated slices.
        thick_rows: on real thick scans.
        models: name, path and SHA-256 of every model compared.
        figures: names of the pictures beside it.
    """
    return {
        "software": f"srcyc {__version__}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "definitions": DEFINITIONS,
        "models": list(models),
        "means": [mean.model_dump(mode="json") for mean in means_of(rows)],
        "scores": [row.model_dump(mode="json") for row in rows],
        "thick_scans": [row.model_dump(mode="json") for row in thick_rows],
        "figures": list(figures),
    }


def write_report(
    folder: Path, rows: Sequence[Row], report: dict[str, Any], thick_rows: Sequence[ThickRow] = ()
) -> list[Path]:
    """Write ``metrics.json``, and as tables what there is: ``metrics.csv``, ``thick_scans.csv``.

    Each is complete or not there at all.

    Raises:
        OutputError: the place cannot be written.
    """
    tables: list[tuple[str, Sequence[Schema]]] = [(TABLE_NAME, rows), (THICK_TABLE_NAME, thick_rows)]
    return [
        *(write_text(folder / name, _table(content)) for name, content in tables if content),
        write_json(folder / REPORT_NAME, report),
    ]


def _table(rows: Sequence[Schema]) -> str:
    table = io.StringIO()
    # What a row is of comes first.
    names = sorted(type(rows[0]).model_fields, key=lambda name: name not in ("scan", "contrast", "method"))
    writer = csv.DictWriter(table, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = row.model_dump(mode="json")
        writer.writerow(cells | {"warnings": " | ".join(cells["warnings"])})
    return table.getvalue()


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
