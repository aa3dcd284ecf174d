"""How well a super-resolved volume agrees with the truth, inside a stated mask and over a stated data range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import spearmanr

from srcyc.errors import DataError, extra
from srcyc.volumes.intensity import IntensityScaling, foreground_mask, robust_scaling

if TYPE_CHECKING:
    from srcyc.evaluation.lpips import LPIPS

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: A result further than this from the truth, in voxels of the truth's grid, fails the alignment audit.
ALIGNMENT_TOLERANCE = 0.25
#: Standard deviation of SSIM's Gaussian window and the half-width at which it is cut, voxels (Wang et al. 2004).
_SSIM_SIGMA, _SSIM_RADIUS = 1.5, 5
#: Voxels along each axis that :func:`ssim` needs.
SSIM_WINDOW = 2 * _SSIM_RADIUS + 1
_CLOSING_RADIUS = 2
_TAPER = 0.25
#: Alignment is judged on detail finer than a Gaussian of this standard deviation, voxels.
_DETAIL = 4.0


def evaluation_mask(truth: Image) -> Mask:
    """Mark the head (or brain) to evaluate in: the truth's foreground, closed by two voxels, holes filled.

    The mask depends on the truth alone, so every method is judged on the same voxels. Air, which any method gets
    right and which would flatter all of them, is left out.

    Args:
        truth: ``(I, J, K)``, any intensity unit.

    Raises:
        DataError: there is no foreground (a constant image).
    """
    foreground = foreground_mask(truth)
    if truth.min() == truth.max() or not foreground.any():
        raise DataError(
            "the truth is constant, there is nothing to compare with", remedy="give a scan with a head in it"
        )
    # A border of background, so that closing does not erode the mask where the scan cuts through the head.
    padded = np.pad(foreground, _CLOSING_RADIUS)
    closed = ndimage.binary_closing(padded, iterations=_CLOSING_RADIUS)
    inner = (slice(_CLOSING_RADIUS, -_CLOSING_RADIUS),) * foreground.ndim
    return np.asarray(ndimage.binary_fill_holes(closed[inner] | foreground))


@dataclass(frozen=True)
class Quality:
    """How near an image comes to the truth, in its head.

    Attributes:
        psnr: dB.
        ssim: 3D, at most 1; None if the truth is smaller than the window.
        lpips: less is better; None if not asked for, or the truth is too small.
    """

    psnr: float
    ssim: float | None
    lpips: float | None = None


def beside_baselines(own: Quality, cubic: Quality, classical: Quality) -> dict[str, Any]:
    """Give a result's scores and their gains over the baselines, by the names of :class:`srcyc.models.card.Scores`."""
    found: dict[str, Any] = {}
    for metric in ("psnr", "ssim", "lpips"):
        value = found[metric] = getattr(own, metric)
        for name, quality in (("cubic", cubic), ("classical", classical)):
            known = getattr(quality, metric)
            # Equal scores, perfect ones too, differ by 0.
            gain = None if value is None or known is None else 0.0 if value == known else value - known
            found[f"{metric}_over_{name}"] = gain
    return found


@dataclass(frozen=True, eq=False)
class Truth:
    """What images are compared with, and the one mask and data range that all of them are judged by.

    The data range is the truth's robust range, from its 0.5th percentile (black) to the 99.5th of its foreground
    (white): the maximum of an MR scan is one bright vessel, and measured against it every method would look good.

    Attributes:
        image: ``(I, J, K)``, any intensity unit.
    """

    image: Image

    @cached_property
    def mask(self) -> Mask:
        """Voxels that count, ``(I, J, K)``, see :func:`evaluation_mask`."""
        return evaluation_mask(self.image)

    @cached_property
    def scaling(self) -> IntensityScaling:
        """From the image's unit to black 0 and white 1."""
        return robust_scaling(self.image)

    @property
    def peak(self) -> float:
        """The data range, the image's unit."""
        return self.scaling.scale

    @property
    def black(self) -> float:
        """The intensity shown as black."""
        return self.scaling.offset

    def quality(self, image: Image, lpips: LPIPS | None = None) -> Quality:
        """Compare an image with the truth.

        Args:
            image: ``(I, J, K)`` on the truth's grid, the truth's unit.
            lpips: measure LPIPS too.

        Raises:
            DataError: the truth is constant.
        """
        structural = perceptual = None
        if min(self.image.shape) >= SSIM_WINDOW:
            structural = ssim(image, self.image, self.mask, self.peak)
        if lpips is not None and lpips.fits(self.image.shape):
            perceptual = lpips(image - self.black, self.image - self.black, self.mask, self.peak)
        return Quality(psnr(image, self.image, self.mask, self.peak), structural, perceptual)


def psnr(image: Image, truth: Image, mask: Mask, peak: float) -> float:
    """Peak signal-to-noise ratio, ``20 log10(peak / RMSE)`` with the RMSE over ``mask``.

    Args:
        image: ``(I, J, K)`` on the truth's grid, the truth's intensity unit.
        truth: ``(I, J, K)``.
        mask: voxels that count.
        peak: data range, see :class:`Truth`.

    Returns:
        dB; infinite for equal images.
    """
    difference = image[mask].astype(np.float64) - truth[mask]
    error = float(np.sqrt(np.mean(difference**2)))
    if error == 0:
        return math.inf
    # An image that holds NaN has no score, one that holds infinity the worst; neither is a perfect one.
    return -math.inf if math.isinf(error) else 20 * math.log10(peak / error)


def ssim(image: Image, truth: Image, mask: Mask, peak: float) -> float:
    """Mean over ``mask`` of the three-dimensional structural similarity map, at most 1.

    Wang et al. 2004 (Image quality assessment: from error visibility to structural similarity) with its Gaussian
    window (sigma 1.5 voxels) in 3D, K1 = 0.01, K2 = 0.03, population covariance; scikit-image's implementation.

    Args:
        image: ``(I, J, K)`` on the truth's grid, the truth's intensity unit.
        truth: ``(I, J, K)``.
        mask: voxels that count.
        peak: data range, see :class:`Truth`.

    Raises:
        DataError: a volume smaller than the window (11 voxels) along an axis.
        MissingExtraError: scikit-image is not installed.
    """
    with extra("evaluate"):
        from skimage.metrics import structural_similarity
    if min(truth.shape) < SSIM_WINDOW:
        size = " x ".join(map(str, truth.shape))
        raise DataError(
            f"SSIM needs {SSIM_WINDOW} voxels along each axis and the truth has {size}",
            remedy="give a larger scan",
        )
    box = bounding_box(mask, margin=_SSIM_RADIUS, least=SSIM_WINDOW)
    _, similarity = structural_similarity(
        truth[box],
        image[box],
        data_range=peak,
        gaussian_weights=True,
        sigma=_SSIM_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return float(similarity[mask[box]].mean(dtype=np.float64))


class Foresight(NamedTuple):
    """How well an uncertainty map tells where the error is.

    Attributes:
        rank: Spearman's rank correlation of uncertainty and absolute error; 0 is chance, 1 the best.
        share: of the squared error, in the tenth of the voxels that are least certain; 0.1 is chance. Of voxels that
            are equally uncertain each counts for its part of them.
    """

    rank: float
    share: float


def foresight(uncertainty: Image, error: Image, mask: Mask) -> Foresight:
    """Compare an uncertainty map with the error, both ``(I, J, K)`` in one unit, inside ``mask``."""
    doubt, miss = uncertainty[mask].astype(np.float64), np.abs(error[mask]).astype(np.float64)
    tenth, limit, squares = 0.1 * doubt.size, np.quantile(doubt, 0.9, method="higher"), miss**2
    above, at = doubt > limit, doubt == limit
    found = squares[above].sum() + squares[at].mean() * (tenth - np.count_nonzero(above))
    # What is the same everywhere goes with nothing.
    varies = np.ptp(doubt) > 0 and np.ptp(miss) > 0
    return Foresight(
        rank=float(spearmanr(doubt, miss).statistic) if varies else 0.0,
        share=float(found / squares.sum()) if squares.any() else 0.0,
    )


@dataclass(frozen=True)
class Alignment:
    """Whether a result lies where the truth lies.

    Attributes:
        shift: displacement of the result against the truth per array axis, voxels of the truth's grid.
        flipped: array axes along which the mirrored result fits the truth better than the result itself.
    """

    shift: tuple[float, float, float]
    flipped: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """No axis flipped, no shift above :data:`ALIGNMENT_TOLERANCE`."""
        return not self.flipped and max(map(abs, self.shift)) <= ALIGNMENT_TOLERANCE


def alignment(image: Image, truth: Image) -> Alignment:
    """Measure the sub-voxel shift of ``image`` against ``truth`` by the peak of their cross-correlation.

    Guizar-Sicairos et al. 2008 (Efficient subpixel image registration algorithms), scikit-image's implementation,
    to a twentieth of a voxel. Not phase-only: an interpolated image has no usable phase at high frequencies. A
    tapered window keeps the edges of the field of view from counting, and the head's large-scale brightness is taken
    away first: under the window it would hold the peak at zero.

    Args:
        image: ``(I, J, K)`` on the truth's grid.
        truth: ``(I, J, K)``.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    with extra("evaluate"):
        from skimage.registration import phase_cross_correlation
    window = np.ones(truth.shape, dtype=np.float32)
    for axis, n in enumerate(truth.shape):
        window *= _taper(n).reshape([-1 if a == axis else 1 for a in range(3)])
    moving, fixed = ((x - ndimage.gaussian_filter(x, _DETAIL)) * window for x in (image, truth))
    found, _, _ = phase_cross_correlation(fixed, moving, upsample_factor=20, normalization=None)
    own = np.vdot(moving, fixed)
    flipped = tuple(axis for axis in range(3) if np.vdot(np.flip(moving, axis), fixed) > own)
    # scikit-image tells by how much to move the image back.
    x, y, z = (float(-s) + 0.0 for s in found)
    return Alignment((x, y, z), flipped)


def _taper(n: int) -> Image:
    """Tukey window: cosine flanks over :data:`_TAPER` of the extent, ``(n,)``."""
    position = np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / n
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(2 * position / _TAPER, 1))).astype(np.float32)


def bounding_box(mask: Mask, *, margin: int, least: int) -> tuple[slice, ...]:
    """Give the smallest box around a mask with a margin, inside the image, at least ``least`` voxels wide."""
    box = []
    for n, found in zip(mask.shape, ndimage.find_objects(mask.astype(np.uint8))[0], strict=True):
        start, stop = max(0, found.start - margin), min(n, found.stop + margin)
        start = max(0, min(start, stop - least))
        box.append(slice(start, min(n, max(stop, start + least))))
    return tuple(box)
