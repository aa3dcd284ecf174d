"""The four networks: G_HR (SRResDNet), G_LR (DegradationNet), D_HR and D_LR (PatchDiscriminator)."""

from srcyc.networks.degradation import DegradationNet
from srcyc.networks.discriminator import PatchDiscriminator
from srcyc.networks.resdnet import ResDNet
from srcyc.networks.srresdnet import SRResDNet

__all__ = ["DegradationNet", "PatchDiscriminator", "ResDNet", "SRResDNet"]
