"""The numbers of an evaluation as rows, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict

from srcyc._version import __version__
from srcyc.evaluation.benchmark import CUBIC, Comparison
from srcyc.evaluation.metrics import ALIGNMENT_TOLERANCE
from srcyc.files import write_text

#: What the numbers mean; stated in every report.
DEFINITIONS = {
    "simulation": "Gaussian slice profile (FWHM = slice thickness), slices one spacing apart, along head-foot",
    "mask": "foreground of the truth (above a tenth of its robust range), closed by 2 voxels, holes filled",
    "data_range": "truth's 0.5th percentile to the 99.5th percentile of its foreground",
    "psnr": "20 log10(data range / RMSE inside the mask), dB",
    "ssim": "3D, Gaussian window of sigma 1.5 voxels, mean inside the mask (Wang et al. 2004)",
    "lpips": "AlexNet v0.1 (Zhang et al. 2018), mean over slices along each axis of the mask's bounding box; less is "
    "better; empty unless asked for, or where the scan is smaller than 31 voxels",
    "consistency": "||A x - y|| / ||y|| of the result x, the simulated scan y and its acquisition A",
    "shift": f"result against truth by cross-correlation, voxels; above {ALIGNMENT_TOLERANCE} is flagged",
}


class Row(BaseModel):
    """One method on one simulated scan; ``delta_*`` are differences to cubic B-spline interpolation.

    ``lpips`` and its difference are None (an empty cell) unless LPIPS was asked for and the scan is large enough.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: str
    thickness: float
    gap: float
    slice_spacing: float
    method: str
    psnr: float
    ssim: float
    delta_psnr: float
    delta_ssim: float
    lpips: float | None = None
    delta_lpips: float | None = None
    consistency: float
    shift_i: float
    shift_j: float
    shift_k: float
    flipped: bool
    aligned: bool
    seconds: float
    warnings: tuple[str, ...] = ()


class Mean(BaseModel):
    """One method at one thickness, averaged over scans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    thickness: float
    method: str
    scans: int
    psnr: float
    ssim: float
    delta_psnr: float
    delta_ssim: float
    lpips: float | None = None
    delta_lpips: float | None = None
    consistency: float
    aligned: bool


def rows_of(comparison: Comparison, *, scan: str, thickness: float, gap: float) -> list[Row]:
    """Give one row per method."""
    baseline = next(score for score in comparison.scores if score.method == CUBIC)
    return [
        Row(
            scan=scan,
            thickness=thickness,
            gap=gap,
            slice_spacing=comparison.slice_spacing,
            method=score.method,
            psnr=score.psnr,
            ssim=score.ssim,
            delta_psnr=score.psnr - baseline.psnr,
            delta_ssim=score.ssim - baseline.ssim,
            lpips=score.lpips,
            delta_lpips=_difference(score.lpips, baseline.lpips),
            consistency=score.consistency,
            shift_i=score.alignment.shift[0],
            shift_j=score.alignment.shift[1],
            shift_k=score.alignment.shift[2],
            flipped=bool(score.alignment.flipped),
            aligned=score.alignment.ok,
            seconds=score.seconds,
            warnings=tuple(score.warnings),
        )
        for score in comparison.scores
    ]


def means_of(rows: Iterable[Row]) -> list[Mean]:
    """Average over scans, per thickness and method, in the order they first appear."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.thickness, row.method), []).append(row)
    return [
        Mean(
            thickness=thickness,
            method=method,
            scans=len(group),
            psnr=fmean(row.psnr for row in group),
            ssim=fmean(row.ssim for row in group),
            delta_psnr=fmean(row.delta_psnr for row in group),
            delta_ssim=fmean(row.delta_ssim for row in group),
            lpips=_mean(row.lpips for row in group),
            delta_lpips=_mean(row.delta_lpips for row in group),
            consistency=fmean(row.consistency for row in group),
            aligned=all(row.aligned for row in group),
        )
        for (thickness, method), group in groups.items()
    ]


def report_of(
    rows: Sequence[Row], *, models: Sequence[dict[str, Any]], figures: Sequence[str]
) -> dict[str, Any]:
    """Assemble what ``metrics.json`` holds.

    Args:
        rows: all scores.
        models: name, path and SHA-256 of every model compared.
        figures: names of the pictures beside it.
    """
    return _finite(
        {
            "software": f"srcyc {__version__}",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "definitions": DEFINITIONS,
            "models": list(models),
            "means": [mean.model_dump(mode="json") for mean in means_of(rows)],
            "scores": [row.model_dump(mode="json") for row in rows],
            "figures": list(figures),
        }
    )


def write_report(folder: Path, rows: Sequence[Row], report: dict[str, Any]) -> list[Path]:
    """Write ``metrics.csv`` and ``metrics.json``, each complete or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row.model_dump(mode="json") | {"warnings": " | ".join(row.warnings)})
    return [
        write_text(folder / "metrics.csv", table.getvalue()),
        write_text(
            folder / "metrics.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        ),
    ]


def _difference(value: float | None, baseline: float | None) -> float | None:
    return None if value is None or baseline is None else value - baseline


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _finite(value: Any) -> Any:
    """Replace infinities (a perfect PSNR) by None: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
