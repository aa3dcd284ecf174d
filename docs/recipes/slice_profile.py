"""Makes lib/srcyc/physics/slice_profile.json: with it srcyc estimates the width of a scan's slice profile.

    python docs/recipes/slice_profile.py DATA [--out FILE.json]

DATA is the folder with ``hr_t1``, ``hr_other`` and ``hr_ds002748``, which train, and ``eval``, which does not (docs/
experiments.md says how well it does). Each scan is thickened along its axes many times: factors 2 to 9, profiles from
Gaussian to box, in-plane voxels of several sizes and sharpnesses, brightness from slice to slice, noise; in most cases
its contrast is remapped at random first, because the next scan has another one. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from srcyc import read_volume
from srcyc.files import write_text
from srcyc.physics.acquisition import FWHM_PER_SIGMA, slice_profile_matrix
from srcyc.physics.resampling import apply_along, area_matrix
from srcyc.physics.slice_profile import (
    COEFFICIENTS,
    ESTIMATED_RANGE,
    LEAST_SLICES,
    ProfileEstimate,
    ProfileRegression,
    measure,
)
from srcyc.volumes.geometry import world_axes
from srcyc.volumes.intensity import foreground_mask, robust_scaling

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]

TRAIN, EVALUATE = ("hr_t1", "hr_other", "hr_ds002748"), ("eval",)
#: Thick scans of each axis of a scan: those of ds002748, of which there are many and all of one scanner, and others.
DRAWS_OF_MANY, DRAWS = 6, 24
#: Slice spacing over in-plane spacing; thickness over spacing, wider than what an estimate may say.
FACTORS, RATIOS = (1.9, 9.5), (0.35, 1.3)
#: Share of the samples whose contrast is remapped.
REMAPPED = 0.6
#: Voxels are made no finer than this, mm, to save time.
FINEST = 0.95
#: Of the ridge, per sample.
PENALTY = 1e-3
#: Share of what people left out measure that counts as known.
NOVEL = 0.995
#: What people left out are judged on.
JUDGED_FACTORS = (3.0, 7.0)


@dataclass(frozen=True)
class Head:
    """A thin-slice scan: ``(R, A, S)`` normalised intensity, cropped to the head, and mm per axis."""

    name: str
    person: str
    image: Array
    spacing: tuple[float, float, float]

    @property
    def contrast(self) -> str:
        """T1, T2 or FLAIR, from the name."""
        return next((contrast for contrast in ("FLAIR", "T2") if contrast in self.name), "T1")

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes worth thickening: the third of ds002748 is smoother than the others."""
        return (0, 1) if "sub-" in self.person else (0, 1, 2)


@dataclass(frozen=True)
class Sample:
    """One simulated thick scan, measured.

    Attributes:
        head: file name of the scan.
        person: whose it is.
        contrast: of the scan.
        axis: that was thickened.
        native: whether the contrast is the scan's own.
        factor: slice spacing over in-plane spacing.
        ratio: FWHM of the Gaussian that blurs as much as the profile did, over the slice spacing.
        measured: what :func:`srcyc.physics.slice_profile.measure` found.
    """

    head: str
    person: str
    contrast: str
    axis: int
    native: bool
    factor: float
    ratio: float
    measured: dict[str, float]


def main(arguments: Sequence[str]) -> None:
    """Measure, fit, judge, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=COEFFICIENTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train = list(samples(options.data, TRAIN, REMAPPED))
    held = list(samples(options.data, EVALUATE, 0.0))
    regression, told = learn(train)
    write_text(options.out, written_out(regression))
    sys.stdout.write(judged("leaving a person out", train, told))
    told = [regression.estimate(sample.measured) for sample in held]
    sys.stdout.write(judged("people who train nothing", held, told))


# -- thick scans -----------------------------------------------------------------------------------------------------


def samples(data: Path, folders: Sequence[str], remapping: float) -> Iterator[Sample]:
    """Thicken and measure every scan of these folders, a share of them with another contrast."""
    for file in sorted(file for folder in folders for file in (data / folder).glob("*.nii.gz")):
        if "lesions" in file.name or file.name.startswith("openms_20"):
            continue  # a mask; a real thick scan
        head = read_head(file)
        rng = np.random.default_rng(list(file.name.encode()))
        for axis in head.axes:
            for draw in range(DRAWS if len(head.axes) == 3 else DRAWS_OF_MANY):
                sample = thicken(head, axis, rng, native=draw % 5 < 5 * (1 - remapping))
                if sample is not None:
                    yield sample
        sys.stderr.write(f"{file.name}\n")


def read_head(file: Path) -> Head:
    """Read, turn, scale, crop, and make coarser what is finer than needed."""
    volume = read_volume(file)
    order = np.argsort([world for world, _ in world_axes(volume.grid)])
    image, spacing = volume.data[0].transpose(order), [volume.spacing[axis] for axis in order]
    scaling = robust_scaling(image)
    image = ((image - scaling.offset) / scaling.scale).astype(np.float32)
    mask = foreground_mask(image)
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        image = image.take(range(max(0, inside[0] - 3), min(inside[-1] + 4, image.shape[axis])), axis)
    if min(spacing) < 0.8:
        image, spacing = coarser(image, spacing, (0, 1, 2), FINEST)
    person = re.sub(r"_(T1|T2|FLAIR).*", "", file.name.removesuffix(".nii.gz"))
    return Head(file.name, person, image, (spacing[0], spacing[1], spacing[2]))


def coarser(
    image: Array, spacing: Sequence[float], axes: Sequence[int], least: float
) -> tuple[Array, list[float]]:
    """Average axes that are finer than ``least`` mm."""
    found, tensor = list(spacing), torch.from_numpy(np.ascontiguousarray(image))
    for axis in axes:
        n = tensor.shape[axis]
        fewer = round(n * found[axis] / max(found[axis], least))
        if fewer < n:
            tensor = apply_along(tensor, area_matrix(n, fewer), axis)
            found[axis] *= n / fewer
    return tensor.numpy(), found


def thicken(head: Head, axis: int, rng: np.random.Generator, *, native: bool) -> Sample | None:
    """Make one thick scan of a head, with an acquisition drawn at random, and measure it."""
    order = [other for other in range(3) if other != axis] + [axis]
    image = head.image if native else remapped(head.image, rng)
    image, spacing = image.transpose(order), [head.spacing[other] for other in order]

    # Some scans have larger pixels, and so thicker slices at the same factor.
    pixel = min(spacing[:2]) * (rng.uniform(1, 1.8) if rng.random() < 0.4 else 1.0)
    least_factor, most_factor = FACTORS
    most_factor = min(most_factor, image.shape[2] * spacing[2] / pixel / LEAST_SLICES)
    distance = pixel * np.exp(rng.uniform(np.log(least_factor), np.log(most_factor)))
    step = distance / spacing[2]
    slices = int(image.shape[2] / step)
    box = round(rng.random(), 2) if rng.random() < 0.4 else 0.0
    width = rng.uniform(*RATIOS)
    centres = (image.shape[2] - slices * step) * rng.random() + (np.arange(slices) + 0.5) * step
    profile = slice_profile_matrix(image.shape[2], centres, width * step, box=box)
    scan = apply_along(torch.from_numpy(np.ascontiguousarray(image)), profile, 2).numpy()

    if rng.random() < 0.4:
        # Phase encoding is often coarser than the pixels say.
        sigma = rng.uniform(0.3, 1.6) * pixel / FWHM_PER_SIGMA
        along = int(rng.integers(2))
        scan = gaussian_filter1d(scan, sigma / spacing[along], axis=along)
    scan, spacing = coarser(scan, spacing, (0, 1), pixel)
    gain = np.ones(slices)
    if rng.random() < 0.5:
        gain += rng.normal(0, rng.uniform(0, 0.05), slices)
    if rng.random() < 0.3:
        gain += rng.uniform(-0.05, 0.05) * (-1.0) ** np.arange(slices)
    noise = rng.uniform(0, 0.03) if rng.random() < 0.5 else 0.0
    scan = scan * gain + rng.normal(0, noise, scan.shape)
    scaling = robust_scaling(scan.astype(np.float32))
    scan = ((scan - scaling.offset) / scaling.scale).astype(np.float32)
    measured = measure(scan, (spacing[0], spacing[1], distance))
    if measured is None:
        return None
    return Sample(
        head.name,
        head.person,
        head.contrast,
        axis,
        native,
        distance / min(spacing[:2]),
        width * gaussian_width(box),
        dict(measured),
    )


def gaussian_width(box: float) -> float:
    """FWHM of the Gaussian with the variance of a profile of unit FWHM; ``box`` as for the profile."""
    n, fwhm = 4001, 800
    weights = slice_profile_matrix(n, [n / 2], fwhm, box=box)[0]
    position = (np.arange(n) + 0.5 - n / 2) / fwhm
    return FWHM_PER_SIGMA * float(np.sqrt(weights @ position**2))


def remapped(image: Array, rng: np.random.Generator) -> Array:
    """Give a head another contrast: gamma, inverted, any smooth curve, or any rising one; air stays black."""
    inside = np.clip((gaussian_filter(image, 0.7) - 0.03) / 0.1, 0, 1)
    tissue = np.clip(image, 0, 1.5)
    kind = int(rng.integers(4))
    if kind == 0:
        return np.asarray(tissue ** np.exp(rng.normal(0, 0.5)), dtype=np.float32)
    if kind == 1:
        return np.asarray(np.clip(1.05 + 0.2 * rng.random() - tissue, 0.02, None) * inside, dtype=np.float32)
    levels = rng.uniform(0.15, 1, 6)
    if kind == 3:
        levels.sort()
    return np.asarray(PchipInterpolator(np.linspace(0, 1.5, 6), levels)(tissue) * inside, dtype=np.float32)


# -- the regression --------------------------------------------------------------------------------------------------


def learn(train: Sequence[Sample]) -> tuple[ProfileRegression, list[ProfileEstimate]]:
    """Fit; also give what each person's scans are told by the others'."""
    persons = np.array([sample.person for sample in train])
    told: list[ProfileEstimate | None] = [None] * len(train)
    for person in sorted(set(persons)):
        others = ridge([sample for sample in train if sample.person != person])
        for place in np.flatnonzero(persons == person):
            told[place] = others.estimate(train[place].measured)
    found = [one for one in told if one is not None]
    errors = np.array([one.ratio for one in found]) - [clipped(sample) for sample in train]
    limit = round(float(np.quantile([one.novelty for one in found], NOVEL)), 3)
    regression = ridge(train).model_copy(update={"error": round(rms(errors), 4), "novelty_limit": limit})
    return regression, [replace(one, limit=limit) for one in found]


def ridge(train: Sequence[Sample]) -> ProfileRegression:
    """Ridge regression in which a person with many scans counts for the square root of their number."""
    names = tuple(train[0].measured)
    values = np.array([[sample.measured[name] for name in names] for sample in train])
    ratios = np.array([sample.ratio for sample in train])
    count = Counter(sample.person for sample in train)
    weights = np.array([count[sample.person] ** -0.5 for sample in train])
    weights /= weights.sum()
    mean = weights @ values
    scale = np.sqrt(weights @ (values - mean) ** 2)
    z = (values - mean) / scale
    intercept = float(weights @ ratios)
    covariance = (z * weights[:, None]).T @ z + PENALTY * np.eye(len(names))
    precision = np.linalg.inv(covariance)
    coefficients = precision @ (z.T @ (weights * (ratios - intercept)))
    factors = [sample.factor for sample in train]
    return ProfileRegression(
        made_by="docs/recipes/slice_profile.py",
        made_from=tuple(sorted({sample.head for sample in train})),
        persons=len(count),
        samples=len(train),
        factors=(round(min(factors), 2), round(max(factors), 2)),
        error=0.0,
        novelty_limit=1.0,
        intercept=round(intercept, 6),
        measurements=names,
        mean=tuple(mean.round(6)),
        scale=tuple(scale.round(6)),
        coefficients=tuple(coefficients.round(6)),
        precision=tuple(tuple(row) for row in precision.round(3)),
    )


def clipped(sample: Sample) -> float:
    """The nearest ratio that an estimate may say."""
    return float(np.clip(sample.ratio, *ESTIMATED_RANGE))


def rms(errors: Vector) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def written_out(regression: ProfileRegression) -> str:
    """The file: one measurement a line, the matrix one row a line."""
    document = regression.model_dump(mode="json")
    precision = document.pop("precision")
    text = json.dumps(document, indent=1)
    rows = ",\n  ".join(json.dumps(row) for row in precision)
    return f'{text[:-2]},\n "precision": [\n  {rows}\n ]\n}}\n'


def judged(title: str, train: Sequence[Sample], told: Sequence[ProfileEstimate]) -> str:
    """Table of errors on scans of unchanged contrast, factors 3 to 7, ratios that an estimate may say."""
    low, high = ESTIMATED_RANGE
    kept = [
        (sample, one.ratio - sample.ratio, one.reliable)
        for sample, one in zip(train, told, strict=True)
        if sample.native
        and low <= sample.ratio <= high
        and JUDGED_FACTORS[0] <= sample.factor <= JUDGED_FACTORS[1]
    ]
    groups: dict[str, Callable[[Sample], bool]] = {
        "all": lambda sample: True,
        "T1": lambda sample: sample.contrast == "T1",
        "T2": lambda sample: sample.contrast == "T2",
        "FLAIR": lambda sample: sample.contrast == "FLAIR",
        "sagittal": lambda sample: sample.axis == 0,
        "coronal": lambda sample: sample.axis == 1,
        "axial": lambda sample: sample.axis == 2,
        "factor below 4": lambda sample: sample.factor < 4,
        "factor above 5.5": lambda sample: sample.factor > 5.5,
        "ds002748": lambda sample: "sub-" in sample.head,
        "other people": lambda sample: "sub-" not in sample.head,
    }
    lines = [
        f"\n{title} | scans | rms error | mean error | 90 % within | not relied on",
        "--- | " * 5 + "---",
    ]
    for name, belongs in groups.items():
        errors = np.array([error for sample, error, _ in kept if belongs(sample)])
        unreliable = sum(not reliable for sample, _, reliable in kept if belongs(sample))
        if errors.size:
            within = float(np.quantile(np.abs(errors), 0.9))
            lines.append(
                f"{name} | {errors.size} | {rms(errors):.3f} | {errors.mean():+.3f} | {within:.2f} | {unreliable}"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
