"""SRCyc: unpaired super-resolution of MR volumes with cycle-consistent adversarial networks."""

from srcyc._version import __version__

__all__ = ["__version__"]
