"""A model's card: what it is, what it was trained on, and what it scores beside the baselines that need no network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from statistics import fmean
from typing import Literal

from pydantic import Field, field_validator

from srcyc.networks import AnyGeneratorConfig, Degradation
from srcyc.schema import PositiveLimits, Schema

SCHEMA_VERSION: Literal[2] = 2

#: Contrasts by what file names say, in BIDS and elsewhere.
_CONTRAST = re.compile(r"(?:^|[^a-z0-9])(t1c|t1w?|t2w?|flair|pdw?)(?![a-z0-9])", re.IGNORECASE)
_CONTRASTS = {"T1": "T1w", "T2": "T2w", "PD": "PDw", "T1W": "T1w", "T2W": "T2w", "PDW": "PDw", "T1C": "T1c"}


class Origin(Schema):
    """The published model that a training started from."""

    name: str
    sha256: str


class ValidationScore(Schema):
    """Means over the people that a training held back, their slices simulated; None where nothing was measured.

    Attributes:
        psnr: dB.
        psnr_over_cubic: gain over cubic B-spline interpolation, dB.
        psnr_over_classical: dB over the classical inverse (:meth:`srcyc.physics.acquisition.Acquisition.upscale`).
        ssim: 3D.
        lpips: less is better.
        cycle: forward-cycle error on thick scans, normalised intensity.
        correction: ``||delta|| / ||y||`` on thick scans: by how much their slices were corrected.
    """

    psnr: float | None = None
    psnr_over_cubic: float | None = None
    psnr_over_classical: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    cycle: float | None = None
    correction: float | None = None


class Training(Schema):
    """How a model came about.

    Attributes:
        mode: ``generator-only``, ``paired`` or ``unpaired``.
        step: whose weights these are.
        seconds: of training until then, earlier runs it started from not counted; None if not known.
        started_from: the model it started from.
        validation: how it did on the people held back.
        degradation: what G_LR found out about the LR scans; None without a G_LR that does.
    """

    mode: str
    step: int = Field(ge=0)
    seconds: float | None = Field(default=None, ge=0)
    started_from: Origin | None = None
    validation: ValidationScore | None = None
    degradation: Degradation | None = None


class Scores(Schema):
    """How near a result comes to the truth.

    ``*_over_*`` are differences to cubic B-spline interpolation and to the classical inverse, which needs no network.

    Attributes:
        psnr: dB inside the head.
        ssim: 3D, inside the head; None where the scan is smaller than its window.
        lpips: AlexNet's, less is better; None if not measured.
    """

    psnr: float
    psnr_over_cubic: float
    psnr_over_classical: float
    ssim: float | None
    ssim_over_cubic: float | None
    ssim_over_classical: float | None
    lpips: float | None = None
    lpips_over_cubic: float | None = None
    lpips_over_classical: float | None = None


class ScanScore(Scores):
    """How a model did on one scan whose thick slices were simulated, so that the truth is known.

    Attributes:
        scan: its name.
        contrast: MR contrast; None if not known.
        thickness: of the slices, mm.
        gap: between them, mm.
        axis: array axis along which they are stacked.
        jitter: standard deviation of the slices' gain, as a fraction.
        noise: standard deviation of the noise, as a fraction of the scan's robust range.
    """

    scan: str
    contrast: str | None
    thickness: float = Field(gt=0)
    gap: float = Field(default=0.0, ge=0)
    axis: Literal[0, 1, 2]
    jitter: float = Field(default=0.0, ge=0)
    noise: float = Field(default=0.0, ge=0)

    @property
    def spoiled(self) -> bool:
        """Whether the slices had gain jitter or noise."""
        return self.jitter > 0 or self.noise > 0


class ThickScanScore(Schema):
    """What the model did to one real thick scan, where no truth is known.

    Attributes:
        scan: its name.
        contrast: MR contrast; None if not known.
        slice_gain: slice-to-slice gain of the scan (:func:`srcyc.physics.slice_gain.slice_gain`), per cent.
        slice_gain_after: of the result acquired again, per cent.
        correction: ``||delta|| / ||y||``, by how much the slices were corrected.
    """

    scan: str
    contrast: str | None
    slice_gain: float | None
    slice_gain_after: float | None
    correction: float = Field(ge=0)


class Gain(Schema):
    """Means over the scans of one contrast and thickness; see :func:`gains`.

    Attributes:
        contrast: as on the scores.
        thickness: mm.
        spoiled: whether the slices had gain jitter or noise.
        scans: how many; each may have been scored along several axes.
        psnr_over_cubic: dB.
        psnr_over_classical: dB.
        ssim_over_classical: None where it was not measured.
        least: the worst one's gain over the classical inverse, dB.
    """

    contrast: str | None
    thickness: float
    spoiled: bool
    scans: int
    psnr_over_cubic: float
    psnr_over_classical: float
    ssim_over_classical: float | None
    least: float


class ModelCard(Schema):
    """What a published model is, and what it may be used for.

    Attributes:
        schema_version: of this schema.
        name: short name, as in ``--model``.
        title: one line for lists.
        network: arguments that rebuild the network.
        spacing_range: voxel size in mm of the HR grids it was trained on, finest and coarsest.
        factor_range: spacing of the thick axis over the HR spacing, least and most.
        contrasts: MR contrasts it was trained on.
        trained_on: data, in words.
        training: how it came about; None if not known.
        scores: on scans with simulated slices that did not train it.
        thick_scans: on real thick scans.
        licence: SPDX identifier of the weights.
        created: ISO date.
        software: name and version that published it.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str = Field(min_length=1)
    title: str
    network: AnyGeneratorConfig
    spacing_range: PositiveLimits
    factor_range: PositiveLimits
    contrasts: tuple[str, ...]
    trained_on: str
    training: Training | None = None
    scores: tuple[ScanScore, ...] = ()
    thick_scans: tuple[ThickScanScore, ...] = ()
    licence: str
    created: str
    software: str

    @field_validator("created")
    @classmethod
    def _iso_date(cls, value: str) -> str:
        date.fromisoformat(value[:10])
        return value


def gains(scores: Iterable[ScanScore]) -> list[Gain]:
    """Average the scores over scans, per contrast, thickness and state of the slices, clean ones first."""
    groups: dict[tuple[bool, str, float], list[ScanScore]] = {}
    for score in scores:
        groups.setdefault((score.spoiled, score.contrast or "", score.thickness), []).append(score)
    return [
        Gain(
            contrast=contrast or None,
            thickness=thickness,
            spoiled=spoiled,
            scans=len({score.scan for score in group}),
            psnr_over_cubic=fmean(score.psnr_over_cubic for score in group),
            psnr_over_classical=fmean(score.psnr_over_classical for score in group),
            ssim_over_classical=mean(score.ssim_over_classical for score in group),
            least=min(score.psnr_over_classical for score in group),
        )
        for (spoiled, contrast, thickness), group in sorted(groups.items())
    ]


def mean(values: Iterable[float | None]) -> float | None:
    """Average what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def contrast_of(name: str) -> str | None:
    """Read the MR contrast off a file's name, as in ``sub-01_T1w.nii.gz``; None if it does not say."""
    found = _CONTRAST.findall(name)
    return _CONTRASTS.get(found[-1].upper(), found[-1].upper()) if found else None
