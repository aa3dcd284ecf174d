"""Optional preparation of a scan by ITK; off by default and named in every report.

Both steps act on normalised intensity, so they do the same whatever a scan's unit and offset are: ITK's N4 takes
logarithms, and passes over what is below 0; its curvature flow leaves alone what varies by less than a fixed value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from srcyc.errors import SRCycError
from srcyc.volumes.formats.itk import image_of
from srcyc.volumes.intensity import IntensityScaling, robust_scaling
from srcyc.volumes.volume import Volume

#: N4 fits a field so smooth that voxels of about this size (mm) tell as much as finer ones.
_N4_SPACING = 4.0
#: Curvature flow: few explicit steps, below the scheme's stability limit of 1/8 in 3D.
_FLOW_STEP, _FLOW_ITERATIONS = 0.0625, 5


def correct_bias_field(volume: Volume) -> Volume:
    """Divide by the bias field that N4 estimates in the Otsu foreground.

    Tustison et al.: N4ITK, IEEE Trans. Medical Imaging 29(6), 2010.

    Raises:
        SRCycError: ITK cannot fit a field to this scan.
    """
    scaling = robust_scaling(volume.data[0])
    image = image_of(scaling.normalise(volume.data[0]), volume.affine)
    try:
        mask = sitk.And(sitk.OtsuThreshold(image, 0, 1, 200), sitk.Greater(image, 0.0))
        shrink = [
            max(1, min(round(_N4_SPACING / s), n // 4))
            for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)
        ]
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
        field = sitk.Exp(n4.GetLogBiasFieldAsImage(image))
    except RuntimeError as error:
        raise SRCycError(
            f"{volume.name}: N4 found no bias field ({_last_line(error)})",
            remedy="leave out n4",
            options=("n4",),
        ) from error
    return _with_image(volume, sitk.Divide(image, field), scaling)


def denoise(volume: Volume) -> Volume:
    """Smooth along edges by curvature flow (Sethian: Level Set Methods, 1996; ITK), in voxel units.

    Raises:
        SRCycError: ITK cannot process this scan.
    """
    scaling = robust_scaling(volume.data[0])
    image = image_of(scaling.normalise(volume.data[0]), volume.affine)
    # By voxel, not by mm: across thick slices a neighbour is too far to tell noise from anatomy.
    image.SetSpacing((1.0, 1.0, 1.0))
    try:
        smooth = sitk.CurvatureFlow(image, _FLOW_STEP, _FLOW_ITERATIONS)
    except RuntimeError as error:
        raise SRCycError(
            f"{volume.name}: denoising failed ({_last_line(error)})",
            remedy="leave out denoise",
            options=("denoise",),
        ) from error
    return _with_image(volume, smooth, scaling)


def _with_image(volume: Volume, image: sitk.Image, scaling: IntensityScaling) -> Volume:
    normalised = sitk.GetArrayViewFromImage(image).T
    return replace(volume, data=np.ascontiguousarray(scaling.invert(normalised))[None])


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
