"""D_HR and D_LR: one logit a patch, also where there are only a few slices."""

from __future__ import annotations

import pytest
import torch

from srcyc.config import TrainingConfig
from srcyc.errors import ConfigError
from srcyc.networks import PatchDiscriminator


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def make(seed: int = 0, **options: object) -> PatchDiscriminator:
    torch.manual_seed(seed)
    return PatchDiscriminator(features=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "options", "patches"),
    [
        ((48, 48, 48), {"layers": 3}, (6, 6, 6)),
        ((17, 20, 33), {"layers": 2}, (5, 5, 9)),
        ((48, 48, 7), {"layers": 2, "stride_thick": False}, (12, 12, 7)),
        ((16, 16, 3), {"layers": 2, "stride_thick": False}, (4, 4, 3)),
        ((16, 16, 2), {"layers": 3}, (2, 2, 1)),
        ((16, 16, 1), {"layers": 2, "stride_thick": False}, (4, 4, 1)),
    ],
)
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_one_logit_a_patch(
    shape: tuple[int, ...], options: dict, patches: tuple[int, ...], norm: str
) -> None:
    logits = make(norm=norm, **options)(random(2, 1, *shape))
    assert logits.shape == (2, 1, *patches)
    assert torch.isfinite(logits).all()
    assert logits.min() < logits.max()


def receptive_radius(layers: int) -> int:
    """Of kernels of 3: each adds its stride so far; the last strided layer is followed by two without."""
    return sum(2 ** min(index, layers) for index in range(layers + 2))


@pytest.mark.parametrize("layers", [1, 2])
def test_logits_are_local_without_a_norm(layers: int) -> None:
    network = make(layers=layers, norm="none")
    image = random(1, 1, 48, 8, 8).requires_grad_()
    logits = network(image)
    middle = logits.shape[2] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle].sum(), image)
    seen = gradient[0, 0].abs().flatten(1).amax(dim=1).nonzero().flatten()
    centre, radius = middle * 2**layers, receptive_radius(layers)
    assert seen.min() == centre - radius
    assert seen.max() == centre + radius
    far = image.detach().clone()
    far[0, 0, centre + radius + 1 :] += 5
    torch.testing.assert_close(network(far)[0, 0, middle], logits[0, 0, middle], rtol=0, atol=0)
    near = image.detach().clone()
    near[0, 0, centre + radius] += 5
    assert not torch.equal(network(near)[0, 0, middle], logits[0, 0, middle])


def test_instance_norm_looks_at_the_whole_image() -> None:
    network, image = make(layers=1), random(1, 1, 64, 8, 8)
    far = image.clone()
    far[0, 0, -4:] += 5
    assert (network(far)[0, 0, 4] - network(image)[0, 0, 4]).abs().max() > 1e-3


def test_images_of_a_batch_are_independent() -> None:
    network, image = make(layers=2), random(3, 1, 16, 16, 8)
    torch.testing.assert_close(network(image)[1:2], network(image[1:2]), rtol=1e-5, atol=1e-5)


def test_d_lr_is_smaller_than_d_hr_and_both_take_their_patches() -> None:
    config = TrainingConfig()
    d_hr, d_lr = PatchDiscriminator(**dict(config.d_hr)), PatchDiscriminator(**dict(config.d_lr))
    size = config.data.size
    assert sum(p.numel() for p in d_lr.parameters()) < sum(p.numel() for p in d_hr.parameters())
    assert d_hr(random(1, 1, size, size, size)).numel() > 1
    fewest = config.data.slices[0]
    assert d_lr(random(1, 1, size, size, fewest)).shape[-1] == fewest


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_every_parameter_learns_and_the_image_gets_a_gradient(norm: str) -> None:
    network = make(layers=2, norm=norm)
    image = random(2, 1, 16, 16, 16).requires_grad_()
    logits = network(image)
    (logits * random(*logits.shape, seed=1)).sum().backward()
    assert image.grad is not None
    assert image.grad.any()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_it_learns_to_tell_sharp_from_blurred() -> None:
    network = make(layers=1)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(30):
        sharp = random(4, 1, 12, 12, 12, seed=step)
        blurred = torch.nn.functional.avg_pool3d(sharp, 3, 1, 1)
        loss = torch.nn.functional.softplus(-network(sharp)).mean()
        loss = loss + torch.nn.functional.softplus(network(blurred)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    sharp = random(4, 1, 12, 12, 12, seed=99)
    assert network(sharp).mean() > network(torch.nn.functional.avg_pool3d(sharp, 3, 1, 1)).mean() + 1


def test_state_dict_round_trip_and_seed() -> None:
    image = random(1, 1, 16, 16, 8)
    source, copy, same = make(seed=1), make(seed=2), make(seed=1)
    assert torch.equal(source(image), same(image))
    assert not torch.equal(source(image), copy(image))
    copy.load_state_dict(source.state_dict())
    assert torch.equal(source(image), copy(image))


def test_bfloat16_autocast_is_finite() -> None:
    network = make(layers=2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(random(2, 1, 16, 16, 16))
    logits.float().square().mean().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("options", [{"layers": 4}, {"layers": 4, "stride_thick": False}])
def test_an_image_of_which_a_norm_would_leave_nothing_is_refused(options: dict) -> None:
    thick = 1 if "stride_thick" in options else 16
    with pytest.raises(ConfigError, match=r"leave one value of \(16, 16"):
        make(**options)(random(2, 1, 16, 16, thick))
    assert make(**options)(random(2, 1, 16, 17, thick)).shape == (2, 1, 1, 2, 1)
    assert make(**options, norm="none")(random(2, 1, 16, 16, thick)).shape == (2, 1, 1, 1, 1)
