"""Losses of the two-cycle training: PyTorch modules for 2D and 3D, and their weighted sum."""

from __future__ import annotations

from srcyc.config import LossWeights
from srcyc.losses.adversarial import AdversarialCriterion, AdversarialLoss
from srcyc.losses.objective import GeneratorObjective, GeneratorTerm
from srcyc.losses.perceptual import PerceptualLoss
from srcyc.losses.reconstruction import ReconstructionCriterion, ReconstructionLoss
from srcyc.losses.total_variation import TotalVariationLoss
from srcyc.losses.vgg import VGGFeatures

__all__ = [
    "AdversarialCriterion",
    "AdversarialLoss",
    "GeneratorObjective",
    "GeneratorTerm",
    "LossWeights",
    "PerceptualLoss",
    "ReconstructionCriterion",
    "ReconstructionLoss",
    "TotalVariationLoss",
    "VGGFeatures",
]
