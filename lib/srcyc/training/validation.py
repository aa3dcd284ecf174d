"""Watching G_HR on simulated thick slices of held-back persons, beside cubic interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srcyc.acquisition import Acquisition
from srcyc.config import ValidationConfig
from srcyc.data.patches import TrainingScan
from srcyc.evaluation.metrics import psnr
from srcyc.intensity import FOREGROUND
from srcyc.networks import SRResDNet
from srcyc.resampling import resample


@dataclass(frozen=True)
class Case:
    """A central crop of one scan at one slice thickness.

    Attributes:
        name: scan and thickness.
        upscaled: ``(1, 1, I, J, K)``, what the network is given, normalised intensity.
        cubic: the cubic interpolation, which it must beat.
        truth: what was scanned.
        factor: thick spacing over thin.
        sigma: ``(1,)`` noise of the scan.
    """

    name: str
    upscaled: Tensor
    cubic: Tensor
    truth: Tensor
    factor: float
    sigma: Tensor


@dataclass(frozen=True)
class Score:
    """Mean over all cases.

    Attributes:
        psnr: of the network, dB, over the foreground, data range 1 (the scan's robust range).
        cubic_psnr: of cubic B-spline interpolation.
    """

    psnr: float
    cubic_psnr: float

    @property
    def gain(self) -> float:
        """The key metric, dB: PSNR over cubic interpolation's."""
        return self.psnr - self.cubic_psnr


def prepare_cases(scans: Sequence[TrainingScan], config: ValidationConfig, network: SRResDNet) -> list[Case]:
    """Simulate each thickness on the central crop of each scan; thicknesses that do not enlarge are left out."""
    cases = []
    for scan in scans:
        size = [min(config.crop, n) for n in scan.image.shape]
        start = [(n - s) // 2 for n, s in zip(scan.image.shape, size, strict=True)]
        crop = torch.from_numpy(scan.image[tuple(slice(b, b + s) for b, s in zip(start, size, strict=True))])
        for thickness in config.thicknesses:
            slices = int(size[2] * scan.spacing[2] / thickness)
            fine = min(size[2], round(slices * thickness / scan.spacing[2]))
            if slices < 3 or fine <= slices:
                continue
            truth = crop[None, None, ..., :fine]
            shape = (size[0], size[1], fine)
            thick = Acquisition(shape, (size[0], size[1], slices)).apply(truth)
            cases.append(
                Case(
                    f"{scan.name} at {thickness:g} mm",
                    network.upscale(thick, shape),
                    resample(thick, shape, "cubic"),
                    truth,
                    fine / slices,
                    torch.tensor([scan.sigma]),
                )
            )
    return cases


@torch.no_grad()
def validate(network: SRResDNet, cases: Sequence[Case], device: torch.device) -> Score:
    """Score a network in fp32 on all cases."""
    own, cubic = [], []
    for case in cases:
        refined = network.refine(
            case.upscaled.to(device), factor=case.factor, sigma=case.sigma.to(device)
        ).cpu()
        truth = case.truth.numpy()
        # Normalised intensity: the scan's robust range is 1.
        own.append(psnr(refined.numpy(), truth, truth > FOREGROUND, peak=1.0))
        cubic.append(psnr(case.cubic.numpy(), truth, truth > FOREGROUND, peak=1.0))
    return Score(sum(own) / len(own), sum(cubic) / len(cubic))
