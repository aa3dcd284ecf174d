"""What real slices get wrong and a simulation does not: brightness from slice to slice, noise, the profile told.

A network trained on clean slices reproduces their faults as bands and stairs; one trained on spoiled slices loses
nothing on clean ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from srcyc.config import SpoilConfig
from srcyc.data.store import Array
from srcyc.physics.acquisition import slice_profile_matrix
from srcyc.physics.resampling import Matrix

#: True thickness over spacing stays within these, however wrong the one told is.
_TRUE_RATIOS = (0.4, 1.4)


@dataclass(frozen=True)
class SimulatedSlices:
    """One stack of slices to be simulated, as drawn.

    Attributes:
        profiles: the true acquisition, ``(S, fine voxels with margins)``, rows sum to 1.
        gains: brightness of each slice, ``(S,)``.
        noise: standard deviation, normalised intensity.
    """

    profiles: Matrix
    gains: Matrix
    noise: float

    def acquire(self, fine: Array, rng: np.random.Generator) -> Array:
        """Acquire ``(1, I, J, fine voxels)``; ``(1, I, J, S)`` comes back."""
        slices = fine @ (self.profiles * self.gains[:, None]).T.astype(np.float32)
        if self.noise > 0:
            slices = slices + rng.normal(0, self.noise, slices.shape).astype(np.float32)
        return slices.astype(np.float32)


def draw_slices(
    rng: np.random.Generator,
    config: SpoilConfig,
    strength: float,
    *,
    slices: int,
    factor: float,
    voxels: int,
    before: int,
    ratio: float,
) -> SimulatedSlices:
    """Draw how a stack is acquired.

    Args:
        rng: of the item.
        config: how much.
        strength: 0 to 1, multiplies the chances of being spoiled.
        slices: S.
        factor: slice spacing in fine voxels.
        voxels: fine voxels, margins included.
        before: fine voxels in front of the first slice.
        ratio: slice thickness over slice spacing that the network is told.
    """
    box = float(rng.uniform()) if rng.random() < config.profile_chance else 0.0
    if rng.random() < strength * config.told_chance:
        ratio = float(np.clip(ratio * np.exp(rng.normal(0, config.told_error)), *_TRUE_RATIOS))
    centres = before + (np.arange(slices) + 0.5) * factor
    gains, noise = np.ones(slices), 0.0
    if rng.random() < strength * config.chance:
        if rng.random() < config.jitter_chance:
            gains += rng.normal(0, rng.uniform(0, config.jitter), slices)
        if rng.random() < config.odd_even_chance:
            gains += rng.uniform(-config.odd_even, config.odd_even) * (-1.0) ** np.arange(slices)
        if rng.random() < config.noise_chance:
            noise = float(rng.uniform(0, config.noise))
    # Steps of a hundredth: the shape of a profile is looked up.
    profiles = slice_profile_matrix(voxels, centres, factor * ratio, box=round(box, 2))
    return SimulatedSlices(profiles, gains, noise)
