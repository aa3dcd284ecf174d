"""One optimisation step: the networks, their optimisers, and what is computed from a batch."""

from __future__ import annotations

from srcyc.training.step.networks import Networks, build_networks
from srcyc.training.step.update import TrainingStep

__all__ = ["Networks", "TrainingStep", "build_networks"]
