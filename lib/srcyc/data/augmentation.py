"""Augmentation of patches: orientation, contrast so that one model serves T1, T2 and FLAIR, and sharpness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from srcyc.physics.acquisition import FWHM_PER_SIGMA

Array = npt.NDArray[np.float32]

#: Chances of leaving the contrast, of a gamma curve, and (the rest) of a random curve.
_KEEP, _GAMMA = 0.6, 0.2
_KNOTS = 6
#: Shares of soft images that are much less so along one axis, and along the last alone.
_LESS_ALONG_ONE, _LAST_ALONE = 0.4, 0.2


@dataclass(frozen=True)
class ContrastCurve:
    """A piecewise linear intensity curve on normalised intensity, 0 -> 0, slope 1 above its last knot.

    Attributes:
        knots: increasing normalised intensities, the first is 0.
        values: what they become.
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, image: Array) -> Array:
        """Map an image of any shape."""
        # Values outside the knots are carried along, so bright voxels and noise below 0 are not clipped.
        above = np.maximum(image - self.knots[-1], 0)
        below = np.minimum(image, 0)
        return (np.interp(image, self.knots, self.values) + above + below).astype(np.float32)


def draw_contrast(rng: np.random.Generator) -> ContrastCurve | None:
    """Draw a curve, or None for leaving the contrast as scanned.

    Random curves are not monotone: they swap the order of tissues as another sequence does (the idea of learning
    from random contrasts: Billot et al. 2023, SynthSR, arXiv:2012.13340; here real anatomy keeps its texture).
    """
    kind = rng.random()
    if kind < _KEEP:
        return None
    if kind < _KEEP + _GAMMA:
        knots = np.linspace(0, 1, 17)
        values = knots ** np.exp(rng.uniform(-0.5, 0.5))
    else:
        knots = np.concatenate([[0], np.sort(rng.uniform(0.05, 1.0, _KNOTS - 1)), [1.2]])
        # Steps of the curve are limited: a steep one would amplify the noise beyond any real sequence's.
        slopes = rng.uniform(-1.2, 1.6, _KNOTS)
        slopes[0] = abs(slopes[0]) + 0.4
        values = np.concatenate([[0], np.cumsum(slopes * np.diff(knots))])
        values = np.abs(values)
    return ContrastCurve(tuple(map(float, knots)), tuple(map(float, values)))


def draw_softness(rng: np.random.Generator, largest: float) -> Array:
    """Draw how much softer another scanner's images are: FWHM of a Gaussian along each axis, voxels, ``(3,)``.

    Nearly the same along all axes, or much less along one, or along the last alone.
    """
    width = rng.uniform(0, largest) * rng.uniform(0.8, 1.2, 3)
    kind = rng.random()
    if kind < _LESS_ALONG_ONE:
        width[rng.integers(3)] *= rng.uniform(0, 0.6)
    elif kind < _LESS_ALONG_ONE + _LAST_ALONE:
        width[:2] = 0
    return width.astype(np.float32)


def soften(image: Array, width: Array) -> Array:
    """Blur ``(C, I, J, K)`` by a Gaussian of the given FWHM along each axis, voxels; its outer voxels continue."""
    return np.asarray(gaussian_filter(image, (0, *(width / FWHM_PER_SIGMA)), mode="nearest"), np.float32)


def draw_orientation(rng: np.random.Generator) -> tuple[tuple[bool, ...], bool]:
    """Draw flips of the three axes and an in-plane transposition."""
    flips = tuple(bool(flip) for flip in rng.integers(0, 2, 3))
    return flips, bool(rng.integers(0, 2))


def orient(image: Array, flips: tuple[bool, ...], transpose: bool) -> Array:
    """Flip axes and transpose in-plane: ``(C, I, J, K)`` -> the same or ``(C, J, I, K)``; the thick axis stays last."""
    axes = [1 + axis for axis, flip in enumerate(flips) if flip]
    image = np.flip(image, axes) if axes else image
    return np.ascontiguousarray(image.swapaxes(1, 2) if transpose else image)
