"""Where the stacks of one person lie to one another: rigid registration by ITK, and images brought along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from srcyc.errors import SRCycError
from srcyc.volumes.formats.itk import image_of
from srcyc.volumes.formats.raw import LPS_TO_RAS
from srcyc.volumes.geometry import Grid

Image = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

#: Levels of the registration: by how much images are shrunk. One with fewer voxels along an axis is left out, and so is
#: a finer one once a level has these many voxels in all: comparing more of them gains nothing.
_SHRINK, _LEAST, _ENOUGH = (4, 2, 1), 8, 100_000
#: Voxels of a level that are compared.
_COMPARED = 150_000
#: Of the places at which they are; ITK's default is the clock.
_SEED = 1
#: Steps of the optimiser, mm: first, last; their greatest number; by what they become shorter. A round head turns
#: almost freely: at ITK's 0.5 the steps are too short before it is in place.
_FIRST_STEP, _LAST_STEP, _STEPS, _SHORTER = 1.0, 1e-3, 200, 0.8


@dataclass(frozen=True, eq=False)
class Motion:
    """A rigid motion in the world.

    Attributes:
        matrix: ``(4, 4)``, homogeneous RAS mm: where a point of the reference lies in the other scan.
    """

    matrix: Matrix

    @classmethod
    def none(cls) -> Motion:
        """Nothing moved."""
        return cls(np.eye(4))

    @property
    def inverse(self) -> Motion:
        """The way back."""
        return Motion(np.linalg.inv(self.matrix))

    @property
    def rotation(self) -> tuple[float, float, float]:
        """Degrees about the axes R, A and S: about R first, about S last."""
        m = self.matrix
        about = (
            np.arctan2(m[2, 1], m[2, 2]),
            -np.arcsin(np.clip(m[2, 0], -1, 1)),
            np.arctan2(m[1, 0], m[0, 0]),
        )
        r, a, s = (float(np.degrees(angle)) for angle in about)
        return r, a, s

    def translation(self, centre: npt.ArrayLike) -> tuple[float, float, float]:
        """Tell by how much a point (RAS mm) was moved, mm towards R, A and S."""
        point = np.asarray(centre, dtype=np.float64)
        r, a, s = (float(mm) for mm in self.matrix[:3, :3] @ point + self.matrix[:3, 3] - point)
        return r, a, s

    def farthest(self, grid: Grid) -> float:
        """Tell by how many mm the corner of a grid was moved that was moved most."""
        corners = grid.field_of_view
        moved = corners @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return float(np.linalg.norm(moved - corners, axis=1).max())


def register(fixed: Image, fixed_grid: Grid, moving: Image, moving_grid: Grid) -> Motion:
    """Find the rigid motion between two images of one contrast, from where their headers place them.

    Args:
        fixed: ``(I, J, K)``, the reference.
        fixed_grid: where it lies.
        moving: the other one; its intensities may be scaled otherwise.
        moving_grid: where it lies.

    Raises:
        SRCycError: ITK finds none.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(torch.get_num_threads())
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    shrink = _levels(fixed.shape)
    compared = [min(1.0, _COMPARED * by**3 / fixed.size) for by in shrink]
    method.SetMetricSamplingPercentagePerLevel(compared, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        _FIRST_STEP, _LAST_STEP, _STEPS, relaxationFactor=_SHORTER, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([by / 2 for by in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    transform = sitk.Euler3DTransform()
    centre = fixed_grid.index_to_world((np.array(fixed_grid.shape) - 1) / 2)
    transform.SetCenter((LPS_TO_RAS[:3, :3] @ centre).tolist())
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(image_of(fixed, fixed_grid.affine), image_of(moving, moving_grid.affine))
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise SRCycError(f"registration failed ({last})", remedy="see that the scans overlap") from error
    return _motion(transform)


def warp(image: Image, grid: Grid, onto: Grid, motion: Motion, *, order: int = 3) -> Image:
    """Bring an image onto a grid along a motion.

    Args:
        image: ``(I, J, K)``.
        grid: where it lies.
        onto: where it is wanted.
        motion: from a point of ``onto`` to its place in ``grid``'s world.
        order: 3, the cubic B-spline, or 1, linear.

    Returns:
        the image on ``onto``, 0 where it does not reach.
    """
    template = sitk.ResampleImageFilter()
    template.SetNumberOfThreads(torch.get_num_threads())
    lps = LPS_TO_RAS @ onto.affine
    template.SetSize(onto.shape)
    template.SetOutputSpacing(onto.spacing)
    template.SetOutputOrigin(lps[:3, 3].tolist())
    template.SetOutputDirection((lps[:3, :3] / onto.spacing).ravel().tolist())
    template.SetTransform(_transform(motion))
    template.SetInterpolator(sitk.sitkBSpline if order == 3 else sitk.sitkLinear)
    template.SetOutputPixelType(sitk.sitkFloat32)
    template.SetDefaultPixelValue(0.0)
    moved = template.Execute(image_of(image, grid.affine))
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(moved).T)


def _levels(shape: tuple[int, ...]) -> list[int]:
    """Choose by how much an image is shrunk, level by level."""
    levels: list[int] = []
    for by in _SHRINK:
        if levels and np.prod(shape) / levels[-1] ** 3 > _ENOUGH:
            break
        if min(shape) // by >= _LEAST or by == 1:
            levels.append(by)
    return levels


def _transform(motion: Motion) -> sitk.AffineTransform:
    lps = LPS_TO_RAS @ motion.matrix @ LPS_TO_RAS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def _motion(transform: sitk.Euler3DTransform) -> Motion:
    lps = np.eye(4)
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    lps[:3, :3] = rotation
    lps[:3, 3] = np.array(transform.GetTranslation()) + centre - rotation @ centre
    return Motion(LPS_TO_RAS @ lps @ LPS_TO_RAS)
