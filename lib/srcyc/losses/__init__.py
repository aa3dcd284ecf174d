"""Losses of the two-cycle training: PyTorch modules for 2D and 3D, and their weighted sum."""

from __future__ import annotations

from srcyc.losses.adversarial import AdversarialCriterion, AdversarialLoss
from srcyc.losses.objective import LossWeights, weighted_sum
from srcyc.losses.perceptual import PerceptualLoss
from srcyc.losses.reconstruction import ReconstructionLoss, RelativeLoss
from srcyc.losses.spectrum import SpectrumLoss
from srcyc.losses.total_variation import TotalVariationLoss
from srcyc.losses.vgg import VGGFeatures

__all__ = [
    "AdversarialCriterion",
    "AdversarialLoss",
    "LossWeights",
    "PerceptualLoss",
    "ReconstructionLoss",
    "RelativeLoss",
    "SpectrumLoss",
    "TotalVariationLoss",
    "VGGFeatures",
    "weighted_sum",
]
