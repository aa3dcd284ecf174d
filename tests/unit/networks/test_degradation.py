"""G_LR: untrained it is a plausible acquisition already, at any factor."""

from __future__ import annotations

import pytest
import torch

from srcyc.errors import ConfigError
from srcyc.networks import DegradationNet
from srcyc.physics.acquisition import Acquisition
from srcyc.physics.resampling import resample

SHAPE = (12, 11, 24)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def make(seed: int = 0, **options: object) -> DegradationNet:
    torch.manual_seed(seed)
    return DegradationNet(**{"features": 8, "blocks": 2, "skip": "area", **options})


@pytest.mark.parametrize("slices", [24, 8, 5, 3])
@pytest.mark.parametrize("skip", ["profile", "area", "none"])
@pytest.mark.parametrize("norm", [False, True])
def test_any_factor(slices: int, skip: str, norm: bool) -> None:
    size = (*SHAPE[:-1], slices)
    output = make(skip=skip, norm=norm)(random(2, 1, *SHAPE), size=size)
    assert output.shape == (2, 1, *size)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("slices", [24, 8, 5])
def test_untrained_it_is_the_skip(slices: int) -> None:
    hr = random(1, 1, *SHAPE)
    size = (*SHAPE[:-1], slices)
    area = make(skip="area")(hr, size=size)
    torch.testing.assert_close(area, resample(hr, size, "area"), rtol=0, atol=0.03)
    for ratio in (1.0, 0.6):
        profile = make(skip="profile")(hr, size=size, thickness_ratio=ratio)
        expected = Acquisition(SHAPE, size, ratio).apply(hr)
        torch.testing.assert_close(profile, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("blocks", [1, 6])
@pytest.mark.parametrize("features", [4, 32])
def test_untrained_it_is_the_skip_at_any_size(features: int, blocks: int) -> None:
    torch.manual_seed(0)
    network, hr = make(features=features, blocks=blocks, head_kernel=7), random(1, 1, 9, 16, 24)
    output = network(hr, size=(9, 16, 6))
    torch.testing.assert_close(output, resample(hr, (9, 16, 6), "area"), rtol=0, atol=0.05)


def test_the_skips_differ() -> None:
    hr, size = random(1, 1, 12, 11, 24), (12, 11, 5)
    area, profile, gap = (
        make(skip=skip)(hr, size=size, thickness_ratio=ratio)
        for skip, ratio in (("area", 1.0), ("profile", 1.0), ("profile", 0.5))
    )
    assert (area - profile).abs().max() > 0.02
    assert (gap - profile).abs().max() > 0.02


@pytest.mark.parametrize("skip", ["profile", "area"])
def test_factor_one_gives_nearly_the_image_itself(skip: str) -> None:
    lr = random(1, 1, 12, 11, 7)
    output = make(skip=skip)(lr, size=(12, 11, 7), thickness_ratio=0.8)
    torch.testing.assert_close(output, lr, rtol=0, atol=0.03)


def test_without_the_skip_it_has_all_to_learn() -> None:
    hr = random(1, 1, 12, 11, 24)
    output = make(skip="none")(hr, size=(12, 11, 6))
    assert (output - resample(hr, (12, 11, 6), "area")).abs().max() > 0.2


def test_the_learned_part_is_added_to_the_skip() -> None:
    """The same weights with and without the skip differ by the skip alone."""
    hr, size = random(1, 1, 12, 11, 24), (12, 11, 7)
    added, bare = make(skip="area"), make(skip="none")
    bare.load_state_dict(added.state_dict())
    torch.testing.assert_close(added(hr, size=size) - bare(hr, size=size), resample(hr, size, "area"))


@pytest.mark.parametrize("norm", [False, True])
def test_every_parameter_learns(norm: bool) -> None:
    network = make(norm=norm)
    output = network(random(2, 1, *SHAPE), size=(*SHAPE[:-1], 7))
    (output * random(*output.shape, seed=1)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_head_sees_the_full_resolution() -> None:
    """A pattern that the area mean cannot see reaches the result through the head's features."""
    network = make(skip="none")
    flat = torch.full((1, 1, 12, 11, 24), 0.5)
    stripes = flat + 0.5 * (-1.0) ** torch.arange(24)
    size = (12, 11, 6)
    torch.testing.assert_close(resample(stripes, size, "area"), resample(flat, size, "area"))
    assert (network(stripes, size=size) - network(flat, size=size)).abs().max() > 0.01


def test_few_slices_and_wide_kernels() -> None:
    network = make(features=4, blocks=1, head_kernel=7)
    assert network(random(1, 1, 9, 8, 12), size=(9, 8, 2)).shape == (1, 1, 9, 8, 2)


def test_state_dict_round_trip_and_seed() -> None:
    source, copy, same = make(1), make(2), make(1)
    hr, size = random(1, 1, *SHAPE), (12, 11, 9)
    assert torch.equal(source(hr, size=size), same(hr, size=size))
    assert not torch.equal(source(hr, size=size), copy(hr, size=size))
    copy.load_state_dict(source.state_dict())
    assert torch.equal(source(hr, size=size), copy(hr, size=size))


def test_bfloat16_autocast_is_finite_and_close() -> None:
    network, hr = make(skip="profile", norm=True), random(2, 1, *SHAPE)
    size = (*SHAPE[:-1], 7)
    exact = network(hr, size=size)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(hr, size=size)
    output.float().square().mean().backward()
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=0.01)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_impossible_sizes_are_refused() -> None:
    hr = random(1, 1, 12, 11, 24)
    for skip in ("area", "profile", "none"):
        with pytest.raises(ConfigError, match="one value per axis"):
            make(skip=skip)(hr, size=(12, 24))
    with pytest.raises(ConfigError, match="cannot be finer"):
        make(skip="profile")(hr, size=(12, 11, 25))


def test_the_default_has_the_profile_as_its_skip() -> None:
    assert DegradationNet().skip == "profile"
