"""SRResDNet: faithful to the published network, for any factor in 2D and 3D, and one of the product's generators."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from srcyc.errors import ConfigError, ModelError
from srcyc.networks import Sampling, SRResDNet, SRResDNetConfig, build_generator
from srcyc.physics.noise import estimate_noise
from srcyc.physics.resampling import resample

SHAPES = {2: (14, 12), 3: (8, 9, 7)}
#: A projection that never limits, for tests of everything else; there must be some noise to limit to.
OPEN = {"initial_alpha": 20.0}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def make(dims: int = 3, *, seed: int = 0, **options: object) -> SRResDNet:
    """A small network that changes its input visibly, as a trained one would."""
    torch.manual_seed(seed)
    network = SRResDNet(
        **{"spatial_dims": dims, "features": 6, "depth": 2, "knows_sampling": False, **options}
    )
    network.resdnet.tail.scale_weight(25)
    for name, parameter in network.named_parameters():
        if "modulation" in name:
            nn.init.normal_(parameter, std=0.4)
    return network.eval()


# -- the published network -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_path(shared_dir: Path) -> Path:
    return shared_dir / "reference" / "srrescgan_model.pth"


def test_published_weights_give_the_published_output(shared_dir: Path, published_path: Path) -> None:
    network = SRResDNet.from_published(published_path).eval()
    assert sum(p.numel() for p in network.parameters()) == 380_356
    with np.load(shared_dir / "reference" / "srresdnet_x4_rgb_io.npz") as reference, torch.no_grad():
        output = network(torch.from_numpy(reference["input"]), scale_factor=4)
        expected = torch.from_numpy(reference["output"])
    assert output.shape == expected.shape == (1, 3, 200, 240)
    assert (output - expected).abs().max() <= 0.05
    assert output.min() >= 0
    assert output.max() <= 255


def test_parameters_of_the_one_channel_network() -> None:
    assert (
        sum(p.numel() for p in SRResDNet(spatial_dims=2, features=64, knows_sampling=False).parameters())
        == 373_954
    )


def test_a_published_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(ModelError, match="does not exist") as error:
            SRResDNet.from_published(path)
        assert str(path) in str(error.value)


class _Foreign:
    """Something a pickle must not bring in."""


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"weight": torch.zeros(3)},
        {"model.unknown.weight_g": torch.zeros(3)},
        {"model.layer1.0": torch.zeros(3)},
        {"model": torch.zeros(3)},
        {3: torch.zeros(3)},
        [1, 2],
        torch.zeros(3),
        _Foreign(),
    ],
    ids=lambda content: str(content)[:40],
)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"not the published SRResCGAN generator|cannot be read as") as error:
        SRResDNet.from_published(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04cut off", b"\x80\x02."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.pth: cannot be read as weights"):
        SRResDNet.from_published(path)


# -- upscale, then refine --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [1, 2, 2.5, 3.7])
def test_any_factor(dims: int, factor: float, interpolation: str) -> None:
    network = make(dims, interpolation=interpolation, **OPEN)
    lr = random(2, 1, *SHAPES[dims])
    with torch.no_grad():
        output = network(lr, scale_factor=factor)
        size = [round(n * factor) for n in SHAPES[dims]]
        upscaled = resample(lr, size, interpolation)  # type: ignore[arg-type]
        torch.testing.assert_close(output, upscaled - network.resdnet(upscaled), rtol=0, atol=1e-6)
        torch.testing.assert_close(output, network(lr, size=size))
    assert output.shape == (2, 1, *size)
    assert (output - upscaled).abs().max() > 0.01


def test_a_factor_per_axis() -> None:
    network = make(3, **OPEN)
    lr = random(1, 1, 6, 7, 5)
    assert network(lr, scale_factor=(1, 1.3, 4.6)).shape == (1, 1, 6, 9, 23)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [8, 48])
def test_the_untrained_network_changes_little(dims: int, features: int) -> None:
    torch.manual_seed(0)
    network = SRResDNet(
        spatial_dims=dims, features=features, depth=3, interpolation="cubic", knows_sampling=False, **OPEN
    )
    lr = random(1, 1, *SHAPES[dims])
    upscaled = network.upscale(lr, [3 * n for n in SHAPES[dims]])
    with torch.no_grad():
        output = network(lr, scale_factor=3)
    assert 0 < (output - upscaled).square().mean().sqrt() < 0.15


@pytest.mark.parametrize("arguments", [{}, {"size": (8, 9, 9), "scale_factor": 2}])
def test_size_or_scale_factor(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="either size or scale_factor"):
        make()(random(1, 1, 8, 9, 7), **arguments)


@pytest.mark.parametrize(
    "arguments", [{"size": (16, 18)}, {"scale_factor": (2, 2)}, {"scale_factor": 0.01}, {"scale_factor": -2}]
)
def test_impossible_sizes_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="one"):
        make()(random(1, 1, 8, 9, 7), **arguments)


def test_clip_keeps_the_range_and_none_carries_bright_voxels_through() -> None:
    x = 3 * random(1, 1, 14, 12) - 1
    clipped = make(2, clip=(0.0, 1.0), **OPEN).refine(x)
    free = make(2, **OPEN).refine(x)
    assert free.min() < 0
    assert free.max() > 1.5
    torch.testing.assert_close(clipped, free.clamp(0, 1))


# -- the noise-adaptive projection -----------------------------------------------------------------------------


def test_projection_gain_is_the_papers_formula() -> None:
    network = SRResDNet(spatial_dims=2, features=4, depth=1, initial_alpha=math.log(3))
    norm, sigma = torch.tensor([100.0, 1.0, 1e6]), torch.tensor([0.5, 2.0, 0.1])
    eps = [3 * s * math.sqrt(400 - 1) for s in (0.5, 2.0, 0.1)]
    expected = [e / max(n, e) for e, n in zip(eps, (100.0, 1.0, 1e6), strict=True)]
    gain = network.projection_gain(norm, sigma, 400)
    assert gain.tolist() == pytest.approx(expected, rel=1e-5)
    assert gain[1] == 1  # small residuals pass


def test_alpha_starts_at_ln_2() -> None:
    assert SRResDNet(spatial_dims=2, features=4, depth=1).alpha.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_large_residual_is_limited_to_the_noise(dims: int) -> None:
    network = make(dims, initial_alpha=math.log(2))
    x = random(2, 1, *SHAPES[dims])
    sigma = torch.tensor([1e-4, 3e-4])
    change = (network.refine(x, sigma=sigma) - x).flatten(1).norm(dim=1)
    expected = 2 * sigma * math.sqrt(math.prod(SHAPES[dims]) - 1)
    torch.testing.assert_close(change, expected, rtol=1e-3, atol=0)
    direction = network.resdnet(x)
    turned = torch.cosine_similarity((x - network.refine(x, sigma=sigma)).flatten(1), direction.flatten(1))
    assert turned.min() > 0.999


def test_an_image_without_noise_is_left_alone() -> None:
    x = random(1, 1, 14, 12)
    torch.testing.assert_close(make(2).refine(x, sigma=torch.zeros(1)), x, rtol=0, atol=0)


def test_noise_is_estimated_on_the_upscaled_image_unless_told() -> None:
    network = make(2, initial_alpha=-3.0)
    x = random(2, 1, 14, 12)
    x[1] *= 0.1
    told = network.refine(x, sigma=estimate_noise(x, 2))
    torch.testing.assert_close(network.refine(x), told)
    assert (network.refine(x, sigma=torch.full((2,), 9.0)) - told).abs().max() > 1e-4


def test_a_zero_residual_has_a_finite_gradient() -> None:
    network = SRResDNet(spatial_dims=2, features=4, depth=1, knows_sampling=False)
    with torch.no_grad():
        network.resdnet.tail.conv.parametrizations.weight.original0.zero_()  # the weights' norm
    x = random(1, 1, 8, 8)
    for sigma in (0.0, 0.1):
        output = network.refine(x, sigma=torch.tensor([sigma]))
        torch.testing.assert_close(output, x, rtol=0, atol=0)
        (output * random(1, 1, 8, 8, seed=1)).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


# -- what the network is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_the_factor_and_the_thickness_matter_once_trained(dims: int) -> None:
    network = make(dims, knows_sampling=True, **OPEN)
    x = random(1, 1, *SHAPES[dims])
    one, six = network.refine(x, factor=1.0), network.refine(x, factor=6.0)
    assert (one - six).abs().max() > 1e-3
    assert (six - network.refine(x, factor=6.0, thickness_ratio=0.6)).abs().max() > 1e-4


def test_an_untrained_network_and_an_ignorant_one_do_not_depend_on_the_factor() -> None:
    x = random(1, 1, 14, 12)
    torch.manual_seed(0)
    untrained, ignorant = SRResDNet(spatial_dims=2, features=6, depth=2), make(2)
    for network in (untrained, ignorant):
        torch.testing.assert_close(
            network.refine(x, factor=1.0), network.refine(x, factor=6.0), rtol=0, atol=0
        )
    assert untrained.embedding is not None
    assert ignorant.condition(2.0, 1.0, x) is None


def test_forward_tells_the_largest_factor() -> None:
    network = make(3, knows_sampling=True, **OPEN)
    lr = random(1, 1, 8, 9, 5)
    size = (8, 12, 23)
    expected = network.refine(network.upscale(lr, size), factor=23 / 5, thickness_ratio=0.8)
    torch.testing.assert_close(network(lr, size=size, thickness_ratio=0.8), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_factors_per_image_equal_single_ones(dims: int) -> None:
    network = make(dims, knows_sampling=True, **OPEN)
    x = random(3, 1, *SHAPES[dims])
    factors, ratios = torch.tensor([1.0, 2.7, 6.5]), torch.tensor([1.0, 0.7, 0.9])
    together = network.refine(x, factor=factors, thickness_ratio=ratios)
    for i in range(3):
        alone = network.refine(x[i : i + 1], factor=float(factors[i]), thickness_ratio=float(ratios[i]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=2e-5)
    mixed = network.refine(x, factor=factors, thickness_ratio=0.7)
    torch.testing.assert_close(mixed[1:2], together[1:2], rtol=0, atol=2e-5)


# -- as one of the product's generators ------------------------------------------------------------------------


def test_it_estimates_the_negative_residual_of_what_it_is_given_and_trusts_the_slices() -> None:
    network = make(knows_sampling=True)
    x = random(2, 1, 8, 9, 12)
    samplings = [Sampling(2.7, 1.0), Sampling(6.5, 0.6)]
    between, slices = network.estimate(x, samplings)
    assert slices is None
    factors, ratios = torch.tensor([2.7, 6.5]), torch.tensor([1.0, 0.6])
    expected = -network.resdnet(x, network.condition(factors, ratios, x))
    torch.testing.assert_close(between, expected, rtol=0, atol=0)
    assert between.abs().max() > 0.01
    alone, _ = network.estimate(x[1:], samplings[1:])
    torch.testing.assert_close(between[1:], alone, rtol=0, atol=2e-5)
    assert (network.estimate(x[1:], samplings[:1])[0] - alone).abs().max() > 1e-3


def test_it_works_on_the_grid_that_is_wanted() -> None:
    network = make()
    assert network.planes(17, 5) == (17, 17)
    assert network.features_per_row(40, 17, 5) == 6 * 40 * 17
    assert (network.row_step, network.reach) == (1, network.resdnet.halo)


@pytest.mark.parametrize("sampling", [Sampling(1.0, 1.0), Sampling(2.7, 1.0), Sampling(6.5, 0.6)])
def test_a_stream_is_the_estimate(sampling: Sampling) -> None:
    network, x = make(knows_sampling=True), random(1, 1, 23, 6, 8)
    stream = network.stream(sampling)
    with torch.no_grad():
        expected, _ = network.estimate(x, [sampling])
        parts = [stream(x[:, :, :12], False), stream(x[:, :, 12:13], False), stream(x[:, :, 13:], True)]
    found = torch.cat([part.between for part in parts], dim=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert all(part.slices is None for part in parts)


# -- as a module -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns(dims: int) -> None:
    network = make(dims, knows_sampling=True).train()
    sigma = torch.full((2,), 1e-3)  # limits the residual, so that alpha matters
    output = network(random(2, 1, *SHAPES[dims]), scale_factor=1.7, sigma=sigma)
    (output * random(*output.shape, seed=2)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_state_dict_round_trip() -> None:
    source, copy = make(seed=1, knows_sampling=True), make(seed=2, knows_sampling=True)
    x = random(1, 1, 8, 9, 7)
    assert not torch.equal(source.refine(x, factor=3.0), copy.refine(x, factor=3.0))
    copy.load_state_dict(source.state_dict())
    torch.testing.assert_close(copy.refine(x, factor=3.0), source.refine(x, factor=3.0), rtol=0, atol=0)


def test_the_same_seed_gives_the_same_network() -> None:
    networks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        networks.append(build_generator(SRResDNetConfig(features=4, depth=1)).state_dict())
    same, again, other = networks
    assert all(torch.equal(same[key], again[key]) for key in same)
    assert any(not torch.equal(same[key], other[key]) for key in same)


@pytest.mark.parametrize("dims", [2, 3])
def test_bfloat16_autocast_is_finite_and_close(dims: int) -> None:
    network = make(dims, knows_sampling=True).train()
    lr = random(2, 1, *SHAPES[dims])
    exact = network(lr, scale_factor=2, sigma=torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16):
        output = network(lr, scale_factor=2, sigma=torch.ones(2))
    output.float().square().mean().backward()
    assert torch.isfinite(output).all()
    assert (output - exact).abs().max() < 0.1 * (exact - network.upscale(lr, exact.shape[2:])).abs().max()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_channels_last_gives_the_same() -> None:
    network, x = make(knows_sampling=True, **OPEN), random(2, 1, 8, 9, 7)
    expected = network.refine(x, factor=3.0)
    network.to(memory_format=torch.channels_last_3d)
    result = network.refine(x.contiguous(memory_format=torch.channels_last_3d), factor=3.0)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_dimensions_are_checked() -> None:
    with pytest.raises(ValidationError, match="spatial_dims"):
        SRResDNet(spatial_dims=4)
