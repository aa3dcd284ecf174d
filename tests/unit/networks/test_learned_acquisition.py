from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from srcyc.errors import ConfigError
from srcyc.networks import DegradationNet, DegradationNetConfig, LearnedAcquisition
from srcyc.networks.learned_acquisition import gaussian_profiles
from srcyc.physics.acquisition import Acquisition, slice_profile_matrix
from srcyc.physics.resampling import apply_along, resample

SIZE = (12, 11, 6)
FINE = (12, 11, 27)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fwhm", [0.3, 1.8, 4.5])
def test_profiles_are_those_of_the_operator(fwhm: float) -> None:
    centres = (np.arange(6) + 0.5) * 4.5
    found = gaussian_profiles(27, torch.from_numpy(centres), torch.tensor(fwhm, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), slice_profile_matrix(27, centres, fwhm), atol=1e-12)


@pytest.mark.parametrize("pixels", [SIZE[:2], (SIZE[0] // 2, SIZE[1])])
def test_without_blur_it_is_the_operator_told(pixels: tuple[int, int]) -> None:
    operator, hr, size = LearnedAcquisition(), random(2, 1, *FINE), (*pixels, SIZE[2])
    with torch.no_grad():
        operator.blur.fill_(-0.1)
    found = operator(hr, size=size, thickness_ratio=0.7)
    expected = Acquisition(FINE, size, 0.7, slice_axis=-1).apply(hr)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_blur_is_in_plane() -> None:
    """A bright column along the slices becomes a Gaussian of the FWHM that the network tells, in every slice."""
    operator, hr = LearnedAcquisition(), torch.zeros(1, 1, 21, 21, 12)
    hr[:, :, 10, 10] = 1
    with torch.no_grad():
        operator.blur.fill_(0.01)
    y = operator(hr, size=(21, 21, 3))
    spread = (y[0, 0, :, :, 1].sum(dim=1) * (torch.arange(21) - 10) ** 2).sum()
    sigma = operator.learned.blur / (2 * math.sqrt(2 * math.log(2)))
    # Means over voxels of a Gaussian about a voxel's centre: 1/12 more variance.
    assert float(spread.detach()) == pytest.approx(sigma**2 + 1 / 12, rel=1e-3)
    torch.testing.assert_close(y[..., 0], y[..., 2])


def test_noise_is_what_is_given_times_its_strength() -> None:
    operator, hr, field = LearnedAcquisition(), random(1, 1, *FINE), normal(1, 1, *SIZE)
    clean = operator(hr, size=SIZE)
    noisy = operator(hr, size=SIZE, noise=field)
    torch.testing.assert_close(noisy - clean, operator.learned.noise * field, rtol=0, atol=1e-6)
    assert torch.equal(noisy, operator(hr, size=SIZE, noise=field))


def test_at_factor_one_nothing_happens() -> None:
    scan = random(1, 1, *SIZE)
    assert torch.equal(LearnedAcquisition()(scan, size=SIZE, noise=normal(1, 1, *SIZE)), scan)


def test_every_parameter_is_reached() -> None:
    network = DegradationNet(features=4, blocks=1, head_kernel=3, skip="learned")
    with torch.no_grad():
        next(network.body[-1].parameters()).normal_(0, 0.1)
    output = network(random(2, 1, *FINE), size=SIZE, noise=normal(2, 1, *SIZE))
    (output * random(*output.shape, seed=1)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_residual_is_zero_at_the_start_and_sees_the_noise() -> None:
    network, hr, field = (
        DegradationNet(features=4, blocks=1, skip="learned"),
        random(1, 1, *FINE),
        normal(1, 1, *SIZE),
    )
    alone = LearnedAcquisition()
    torch.testing.assert_close(network(hr, size=SIZE, noise=field), alone(hr, size=SIZE, noise=field))
    with torch.no_grad():
        next(network.body[-1].parameters()).normal_(0, 0.1)
    other = network(hr, size=SIZE, noise=-field) - network(hr, size=SIZE, noise=field)
    assert (other + 2 * network.learned.noise * field).abs().max() > 1e-3  # type: ignore[union-attr]


def test_without_features_it_is_the_operator_alone() -> None:
    network = DegradationNet(skip="learned", features=0)
    hr, field = random(1, 1, *FINE), normal(1, 1, *SIZE)
    assert len(list(network.parameters())) == 3
    found = network(hr, size=SIZE, thickness_ratio=0.8, noise=field)
    assert torch.equal(found, LearnedAcquisition()(hr, size=SIZE, thickness_ratio=0.8, noise=field))
    with pytest.raises(ValidationError, match="nothing"):
        DegradationNetConfig(skip="none", features=0)


def test_only_this_form_has_something_learned() -> None:
    assert DegradationNet().learned is None
    learns = DegradationNet(skip="learned")
    assert learns.learned is not None and learns.is_noisy
    assert learns.learned.width == 1.0


def test_a_known_degradation_is_recovered_from_pairs() -> None:
    """Direct regression, at the generators' learning rate: where it ends is what made the scans."""
    width, blur, noise, ratio = 0.75, 1.8, 0.03, 0.9
    fine, size = (16, 16, 40), (16, 16, 8)
    voxels = np.arange(16) + 0.5
    centres = (np.arange(8) + 0.5) * 5
    operator = LearnedAcquisition()
    adam = torch.optim.Adam(operator.parameters(), lr=2.5e-4, betas=(0.9, 0.99))
    for step in range(250):
        hr = resample(random(1, 1, 12, 12, 30, seed=step), fine, "cubic")
        y = apply_along(hr, slice_profile_matrix(40, centres, 5 * ratio * width), -1)
        for axis in (2, 3):
            y = apply_along(y, slice_profile_matrix(16, voxels, blur), axis)
        y = y + noise * normal(*y.shape, seed=step)
        found = operator(hr, size=size, thickness_ratio=ratio)
        # The noise's strength is told by what remains.
        strength = (operator(hr, size=size, thickness_ratio=ratio, noise=torch.ones_like(y)) - found).mean()
        remaining = (found - y).square().mean()
        loss = remaining + (strength - remaining.detach().sqrt()).square()
        adam.zero_grad()
        loss.backward()
        adam.step()
    learned = operator.learned
    assert learned.width == pytest.approx(width, rel=0.05)
    assert learned.blur == pytest.approx(blur, rel=0.05)
    assert learned.noise == pytest.approx(noise, rel=0.1)
    assert learned.as_row() == {"profile_width": learned.width, "blur": learned.blur, "noise": learned.noise}


def test_a_profile_cannot_grow_without_bound() -> None:
    operator = LearnedAcquisition()
    with torch.no_grad():
        operator.width.fill_(0.2)
    assert operator(random(1, 1, *FINE), size=SIZE).isfinite().all()


def test_bf16_keeps_the_operator_exact() -> None:
    operator, hr = LearnedAcquisition(), random(1, 1, *FINE)
    exact = operator(hr, size=SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(operator(hr, size=SIZE), exact)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="finer"):
        LearnedAcquisition()(random(1, 1, *FINE), size=(12, 11, 28))
