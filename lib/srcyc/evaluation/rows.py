"""What is told of one method on one scan: a line of the tables, an entry of the report."""

from __future__ import annotations

from pydantic import ConfigDict

from srcyc.models.card import ScanScore
from srcyc.schema import Schema


class Row(ScanScore):
    """One method on one simulated scan; the report says what its numbers mean. A perfect result's PSNR is infinite."""

    model_config = ConfigDict(allow_inf_nan=True)

    method: str
    slice_spacing: float
    told_ratio: float
    blur: float = 0.0
    box: float = 0.0
    consistency: float
    shift_i: float
    shift_j: float
    shift_k: float
    flipped: bool
    aligned: bool
    kept: float | None = None
    kept_small: float | None = None
    uncertainty_rank: float | None = None
    uncertainty_share: float | None = None
    seconds: float
    warnings: tuple[str, ...] = ()


class ThickRow(Schema):
    """One method on one real thick scan; ``scan`` itself is the first."""

    model_config = ConfigDict(allow_inf_nan=True)

    scan: str
    contrast: str | None
    method: str
    factor: float
    axis: int
    slice_spacing: float
    thickness: float
    thickness_source: str
    slice_gain: float | None
    slice_gain_over_scan: float | None
    correction: float = 0.0
    kept: float | None = None
    kept_small: float | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
