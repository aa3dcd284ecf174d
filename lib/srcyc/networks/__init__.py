"""The four networks: G_HR (any registered generator), G_LR (DegradationNet), D_HR and D_LR (PatchDiscriminator)."""

from srcyc.networks.degradation import DegradationNet, DegradationNetConfig
from srcyc.networks.discriminator import (
    DiscriminatorConfig,
    LowResolutionDiscriminatorConfig,
    PatchDiscriminator,
)
from srcyc.networks.generator import (
    AnyGeneratorConfig,
    Estimate,
    EstimateStream,
    Generator,
    GeneratorConfig,
    Sampling,
    build_generator,
    generators,
    register,
)
from srcyc.networks.learned_acquisition import Degradation, LearnedAcquisition
from srcyc.networks.resdnet import ResDNet
from srcyc.networks.sliceresdnet import SliceResDNet, SliceResDNetConfig
from srcyc.networks.srresdnet import SRResDNet, SRResDNetConfig

__all__ = [
    "AnyGeneratorConfig",
    "Degradation",
    "DegradationNet",
    "DegradationNetConfig",
    "DiscriminatorConfig",
    "Estimate",
    "EstimateStream",
    "Generator",
    "GeneratorConfig",
    "LearnedAcquisition",
    "LowResolutionDiscriminatorConfig",
    "PatchDiscriminator",
    "ResDNet",
    "SRResDNet",
    "SRResDNetConfig",
    "Sampling",
    "SliceResDNet",
    "SliceResDNetConfig",
    "build_generator",
    "generators",
    "register",
]
