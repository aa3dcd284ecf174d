"""Volumes as images of ITK and SimpleITK in memory, and back: world coordinates turn from RAS to LPS and back.

``itk`` itself is imported by those functions alone that make or take its images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from srcyc.errors import VolumeError, extra
from srcyc.volumes.formats.itk import affine_of, image_of
from srcyc.volumes.formats.raw import LPS_TO_RAS, require_scalar
from srcyc.volumes.volume import Volume, checked_grid, checked_voxels

if TYPE_CHECKING:
    import itk

_Array = npt.NDArray[Any]


def from_sitk(image: sitk.Image, *, slice_thickness: float | None = None) -> Volume:
    """Take a SimpleITK image as a volume; voxels are copied, and become float32.

    Args:
        image: three-dimensional, one real number per voxel; LPS mm, as ITK has it.
        slice_thickness: mm, full width at half maximum of the slice profile; None: estimated by whoever needs it.

    Returns:
        the same place in RAS mm; ``stored_dtype`` is the image's.

    Raises:
        VolumeError: another number of axes, colour, complex or infinite voxels, a sheared or too small grid.
    """
    if image.GetDimension() != 3:
        raise _not_3d(image.GetDimension())
    complex_ = image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
    require_scalar("SimpleITK image", complex_=complex_, components=image.GetNumberOfComponentsPerPixel())
    return _volume(
        sitk.GetArrayViewFromImage(image),
        np.array(image.GetDirection()).reshape(3, 3),
        image.GetSpacing(),
        image.GetOrigin(),
        slice_thickness,
        "SimpleITK image",
    )


def to_sitk(volume: Volume) -> sitk.Image:
    """Give a volume as a SimpleITK image of float32 voxels, LPS mm; voxels are copied.

    Raises:
        VolumeError: several channels, or a sheared grid, which ITK's images cannot have.
    """
    return image_of(_voxels(volume), volume.affine)


def from_itk(image: itk.Image, *, slice_thickness: float | None = None) -> Volume:
    """Take an image of the ``itk`` package as a volume; see :func:`from_sitk`.

    Raises:
        VolumeError: as :func:`from_sitk`.
        MissingExtraError: the package ``itk`` is not installed.
    """
    with extra("itk"):
        import itk
    if image.GetImageDimension() != 3:
        raise _not_3d(image.GetImageDimension())
    # A complex number counts as two.
    require_scalar("ITK image", complex_=False, components=image.GetNumberOfComponentsPerPixel())
    return _volume(
        itk.array_view_from_image(image),
        itk.array_from_matrix(image.GetDirection()),
        tuple(image.GetSpacing()),
        tuple(image.GetOrigin()),
        slice_thickness,
        "ITK image",
    )


def to_itk(volume: Volume) -> itk.Image:
    """Give a volume as an ``itk.Image[itk.F, 3]``, LPS mm; voxels are copied.

    Raises:
        VolumeError: as :func:`to_sitk`.
        MissingExtraError: the package ``itk`` is not installed.
    """
    with extra("itk"):
        import itk
    voxels = np.ascontiguousarray(_voxels(volume).T)
    lps = LPS_TO_RAS @ volume.affine
    image = itk.image_from_array(voxels)
    image.SetSpacing([float(n) for n in volume.spacing])
    image.SetOrigin([float(n) for n in lps[:3, 3]])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / volume.spacing)))
    return image


def _volume(
    voxels: _Array,
    direction: npt.NDArray[np.float64],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    slice_thickness: float | None,
    name: str,
) -> Volume:
    """Make a volume of ``(K, J, I)`` voxels and their place in LPS mm."""
    grid = checked_grid(voxels.shape[::-1], affine_of(direction, spacing, origin), name)
    return Volume(checked_voxels(voxels.T, name), grid.affine, voxels.dtype, slice_thickness=slice_thickness)


def _voxels(volume: Volume) -> npt.NDArray[np.float32]:
    """Give the only channel, ``(I, J, K)``."""
    if volume.data.shape[0] != 1:
        raise VolumeError(f"{volume.name}: {volume.data.shape[0]} channels", remedy="convert them one by one")
    checked_grid(volume.shape, volume.affine, volume.name)
    voxels: npt.NDArray[np.float32] = volume.data[0]
    return voxels


def _not_3d(dimension: int) -> VolumeError:
    return VolumeError(f"an image of {dimension} dimensions", remedy="give a three-dimensional one")
