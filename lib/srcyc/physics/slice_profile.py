"""How wide a scan's slice profile is, told from the scan alone.

Anatomy is about as sharp along one axis as along another, so what thick slices blur and skip shows against what the
same scan would look like had one of its in-plane axes been acquired like that. Each in-plane axis is blurred by a
Gaussian profile of a known width and sampled as coarsely as the slices; then gradients and correlations along it are
compared with those along the slice axis, on the same image, with the same noise. Half of what is compared are
differences between neighbouring columns, on which brightness from slice to slice and the bias field act little.

A ridge regression makes a width of these measurements. Its coefficients, ``slice_profile.json``, come from heads and
brains thickened by many profiles (docs/recipes/slice_profile.py), their contrasts remapped at random, so that those
that nobody trained on count too.

The width is that of the Gaussian which blurs as much: what the acquisition operator needs. A box-like profile, as a
long selective pulse has it, blurs less than a Gaussian of its full width at half maximum, and comes out up to a third
narrower than the thickness that its header states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from srcyc.physics.acquisition import slice_profile_matrix
from srcyc.physics.resampling import apply_along
from srcyc.schema import Limits, Schema
from srcyc.volumes.intensity import FOREGROUND

#: Slice thickness over slice spacing that an estimate may say: what lies outside is rare, and a width that is told too
#: large costs most.
ESTIMATED_RANGE: Final = (0.5, 1.1)
#: The coefficients.
COEFFICIENTS: Final = Path(__file__).with_name("slice_profile.json")
#: Fewer slices have not been learnt from.
LEAST_SLICES: Final = 9

#: FWHM over slice spacing of the profiles that in-plane axes are given.
_WIDTHS = (0.5, 1.1)
#: Orders of the differences compared.
_ORDERS = (1, 2)
#: Distances in slices at which correlations are compared.
_LAGS = (1, 2)
#: Voxels of a degraded image that are looked at, at most: more columns of the same head say the same.
_VOXELS = 500_000
#: Pairs of voxels inside the head that a mean needs.
_PAIRS = 500
#: An in-plane axis must be finer than the slices for the comparison.
_LEAST_FACTOR = 1.5
#: Added to what is divided or taken the logarithm of, normalised intensity.
_SMALL = 1e-6

Measurements = Mapping[str, float]
_Image = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ProfileEstimate:
    """What a scan says about its slices.

    Attributes:
        ratio: FWHM of the Gaussian profile over slice spacing, within :data:`ESTIMATED_RANGE`, to a hundredth.
        novelty: squared distance of the measurements from those learnt from, 1 on average among them.
        limit: novelty above which the estimate is not to be relied on.
    """

    ratio: float
    novelty: float
    limit: float

    @property
    def reliable(self) -> bool:
        """Whether the scan is like those learnt from."""
        return self.novelty <= self.limit


class ProfileRegression(Schema):
    """The regression, and the card of what it was made from.

    Attributes:
        made_by: script that wrote the file.
        made_from: files of the scans, one person each unless ``persons`` says otherwise.
        persons: number of people.
        samples: simulated thick scans.
        factors: slice spacing over in-plane spacing of these.
        error: root mean square error of the ratio on people left out.
        novelty_limit: see :class:`ProfileEstimate`.
        intercept: ratio of a scan with mean measurements.
        measurements: names, in the order of the arrays below; see :func:`measure`.
        mean: of each measurement.
        scale: standard deviation of each.
        coefficients: of the standardised measurements.
        precision: inverse of their regularised covariance, ``(n, n)``.
    """

    made_by: str
    made_from: tuple[str, ...]
    persons: int
    samples: int
    factors: Limits
    error: float
    novelty_limit: float = Field(gt=0)
    intercept: float
    measurements: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> ProfileRegression:
        n = len(self.measurements)
        lengths = {len(self.mean), len(self.scale), len(self.coefficients), len(self.precision)}
        if {n} != lengths | {len(row) for row in self.precision}:
            raise ValueError(f"{n} measurements, but arrays of other lengths")
        return self

    @classmethod
    @lru_cache(maxsize=4)
    def load(cls, path: Path = COEFFICIENTS) -> ProfileRegression:
        """Read a file, once."""
        return cls.model_validate_json(path.read_bytes())

    def standardised(self, measured: Measurements) -> npt.NDArray[np.float64]:
        """Give the measurements in units of their spread among the scans learnt from, ``(n,)``."""
        values = np.array([measured[name] for name in self.measurements])
        return np.asarray((values - self.mean) / self.scale)

    def estimate(self, measured: Measurements) -> ProfileEstimate:
        """Tell the width from measurements."""
        z = self.standardised(measured)
        ratio = self.intercept + float(z @ np.array(self.coefficients))
        novelty = float(z @ np.array(self.precision) @ z) / len(z)
        low, high = ESTIMATED_RANGE
        return ProfileEstimate(round(min(max(ratio, low), high), 2), novelty, self.novelty_limit)


def estimate_profile(
    image: npt.NDArray[np.float32], spacing: tuple[float, float, float]
) -> ProfileEstimate | None:
    """Estimate the width of a scan's slice profile, in a fraction of a second.

    Args:
        image: ``(I, J, S)`` normalised intensity, slice axis last, as :func:`srcyc.volumes.working.prepare` gives it.
        spacing: mm per axis of ``image``.

    Returns:
        None if there is too little to tell it from: few slices, factors outside those learnt from, no head.
    """
    regression = ProfileRegression.load()
    low, high = regression.factors
    if not low <= spacing[2] / min(spacing[:2]) <= high:
        return None
    measured = measure(image, spacing)
    return None if measured is None else regression.estimate(measured)


@torch.inference_mode()
def measure(image: npt.NDArray[np.float32], spacing: tuple[float, float, float]) -> Measurements | None:
    """Measure what the width of the slice profile can be told from.

    All but the last four are means over both in-plane axes *a*, each degraded by a Gaussian profile of FWHM *w* slice
    spacings; *image* is the degraded image, *columns* its difference between columns a third of a slice spacing apart,
    both looked at inside the head only:

    - ``image d<order> mean @<w>``, ``columns …``: logarithm of the mean absolute difference of that order between
      slices, over that along *a* between samples one slice spacing apart; ``… rms @<w>``: of the root mean squares.
    - ``columns r<lag> slices @<w>``, ``… in-plane @<w>``: correlation of the columns between slices, and along *a*.
    - ``noise``: logarithm of the mean mixed second difference of the pixels over the mean first one.
    - ``sharpness``: logarithm of the mean difference between pixels over that between every second one.
    - ``factor``, ``spacing``: logarithms of the slice spacing over the finest in-plane spacing, and in mm.

    Args:
        image: ``(I, J, S)`` normalised intensity, slice axis last.
        spacing: mm per axis.

    Returns:
        None if there is too little head to measure.
    """
    thick = spacing[2]
    if image.shape[2] < LEAST_SLICES or thick < _LEAST_FACTOR * max(spacing[:2]):
        return None
    scan = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    try:
        axes = [_compare(scan, spacing, axis) for axis in (0, 1)]
        measured = {name: (axes[0][name] + axes[1][name]) / 2 for name in axes[0]}
        measured.update(_pixels(scan))
    except _TooFewError:
        return None
    measured["factor"] = math.log(thick / min(spacing[:2]))
    measured["spacing"] = math.log(thick)
    return measured


class _TooFewError(Exception):
    """A mean over too few voxels."""


def _compare(scan: Tensor, spacing: tuple[float, float, float], axis: int) -> dict[str, float]:
    """Compare one in-plane axis, degraded, with the slice axis."""
    across = 1 - axis
    factor = spacing[2] / spacing[axis]
    n, columns, slices = scan.shape[axis], scan.shape[across], scan.shape[2]
    # Twice as many samples as slices would have: differences skip every second one, and more of the image counts.
    samples = int(2 * (n / factor - 1)) + 1
    lag = max(1, round(spacing[2] / spacing[across] / 3))
    if samples <= 2 * max(*_ORDERS, *_LAGS) or columns <= lag:
        raise _TooFewError
    centres = n / 2 + (np.arange(samples) - (samples - 1) / 2) * factor / 2
    step = max(1, math.ceil(samples * columns * slices / _VOXELS))
    index = torch.arange((columns - lag - 1) % step // 2, columns - lag, step)
    first, second = scan.index_select(across, index), scan.index_select(across, index + lag)

    found = {}
    for width in _WIDTHS:
        profile = slice_profile_matrix(n, centres, width * factor)
        left, right = apply_along(first, profile, axis), apply_along(second, profile, axis)
        head = left > FOREGROUND
        both = head & (right > FOREGROUND)
        for name, seen in (("image", (left, head)), ("columns", (right - left, both))):
            for order in _ORDERS:
                through = _sizes(_difference(seen, 2, 1, order))
                within = _sizes(_difference(seen, axis, 2, order))
                for norm in ("mean", "rms"):
                    ratio = (through[norm] + _SMALL) / (within[norm] + _SMALL)
                    found[f"{name} d{order} {norm} @{width}"] = math.log(ratio)
        for shift in _LAGS:
            edges = (right - left, both)
            found[f"columns r{shift} slices @{width}"] = _correlation(edges, 2, shift)
            found[f"columns r{shift} in-plane @{width}"] = _correlation(edges, axis, 2 * shift)
    return found


def _pixels(scan: Tensor) -> dict[str, float]:
    """Measure noise and sharpness within slices."""
    seen = scan[..., :: max(1, math.ceil(scan.numel() / 2 / _VOXELS))]
    image = (seen, seen > FOREGROUND)
    first = _difference(image, 0, 1, 1)
    near = [_sizes(first)["mean"], _sizes(_difference(image, 1, 1, 1))["mean"]]
    far = [_sizes(_difference(image, axis, 2, 1))["mean"] for axis in (0, 1)]
    mixed = _sizes(_difference(first, 1, 1, 1))["mean"]
    return {
        "noise": math.log((mixed + _SMALL) / (sum(near) + _SMALL)),
        "sharpness": sum(math.log((a + _SMALL) / (b + _SMALL)) for a, b in zip(near, far, strict=True)) / 2,
    }


def _difference(image: _Image, axis: int, lag: int, order: int) -> _Image:
    """Difference of an image along an axis, and where all that it is made of lies in the head."""
    values, inside = image
    for _ in range(order):
        n = values.shape[axis] - lag
        if n < 1:
            raise _TooFewError
        values = values.narrow(axis, lag, n) - values.narrow(axis, 0, n)
        inside = inside.narrow(axis, lag, n) & inside.narrow(axis, 0, n)
    return values, inside


def _sizes(image: _Image) -> dict[str, float]:
    """Mean absolute value and root mean square inside the head."""
    # Not picked out but multiplied by 0: several times quicker.
    count, values = int(image[1].sum()), image[0] * image[1]
    if count < _PAIRS:
        raise _TooFewError
    return {
        "mean": float(values.abs().sum()) / count,
        "rms": float(torch.linalg.vector_norm(values)) / math.sqrt(count),
    }


def _correlation(image: _Image, axis: int, lag: int) -> float:
    """Correlation (about zero) of an image with itself, shifted."""
    values, inside = image
    n = values.shape[axis] - lag
    if n < 1:
        raise _TooFewError
    where = inside.narrow(axis, lag, n) & inside.narrow(axis, 0, n)
    if int(where.sum()) < _PAIRS:
        raise _TooFewError
    a, b = values.narrow(axis, lag, n) * where, values.narrow(axis, 0, n) * where
    norm = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    return float((a * b).sum()) / (norm + _SMALL)
