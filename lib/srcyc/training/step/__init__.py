"""One optimisation step: the networks, their optimisers, and what is computed from a batch."""

from __future__ import annotations

from srcyc.training.step.networks import Networks, build_networks
from srcyc.training.step.update import Terms, TrainingStep

__all__ = ["Networks", "Terms", "TrainingStep", "build_networks"]
