from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srcyc.losses import SpectrumLoss
from srcyc.networks import LearnedAcquisition
from srcyc.physics.resampling import resample


def anatomy(seed: int, size: tuple[int, int, int] = (24, 24, 40)) -> Tensor:
    """Two smooth random objects with edges."""
    random = torch.Generator().manual_seed(seed)
    coarse = resample(torch.rand(2, 1, 8, 8, 12, generator=random), size, "cubic")
    return coarse + 0.5 * (coarse > 0.6).float()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_equal_images_differ_by_nothing() -> None:
    image = anatomy(0)
    assert float(SpectrumLoss()(image, image)) == 0


def test_neither_a_factor_nor_a_constant_counts() -> None:
    image = anatomy(0) + 0.1 * normal(2, 1, 24, 24, 40, seed=1)
    assert float(SpectrumLoss()(3 * image, image)) == pytest.approx(0, abs=1e-3)
    assert float(SpectrumLoss()(image + 5, image)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_others_of_the_same_kind_are_nearer_than_blurred_or_noisy_ones(dims: int) -> None:
    size = (24, 24, 40)
    loss = SpectrumLoss()

    def images(seed: int) -> Tensor:
        image = anatomy(seed, size) + 0.02 * normal(2, 1, *size, seed=seed)
        return image if dims == 3 else image[..., 10]

    real = images(0)
    other = images(1)
    noisy = other + 0.05 * normal(*other.shape, seed=3)
    blurred = torch.stack([other, other.roll(1, 2), other.roll(-1, 2)]).mean(dim=0)
    assert float(loss(other, real)) < min(float(loss(noisy, real)), float(loss(blurred, real)))


def test_unrelated_images_teach_a_degradation() -> None:
    """Slices of other objects, through an operator nobody tells of: noise, blur and width are found."""
    truth, learns, loss = LearnedAcquisition(), LearnedAcquisition(), SpectrumLoss()
    with torch.no_grad():
        truth.width.fill_(-0.004)  # 0.67 of what is told
        truth.blur.fill_(0.008)  # 1.8 voxels
        truth.noise.fill_(0.011)  # 3 %
    adam = torch.optim.Adam(learns.parameters(), lr=2e-4, betas=(0.9, 0.99))
    size, found = (24, 24, 8), []
    for step in range(200):
        with torch.no_grad():
            real = truth(anatomy(1000 + step), size=size, noise=normal(2, 1, *size, seed=2000 + step))
        fake = learns(anatomy(step), size=size, noise=normal(2, 1, *size, seed=step))
        adam.zero_grad()
        loss(fake, real).backward()
        adam.step()
        found.append(learns.learned)
    late = found[-80:]
    for name, tolerance in (("width", 0.2), ("blur", 0.15), ("noise", 0.1)):
        mean = sum(getattr(each, name) for each in late) / len(late)
        assert mean == pytest.approx(getattr(truth.learned, name), rel=tolerance), name
