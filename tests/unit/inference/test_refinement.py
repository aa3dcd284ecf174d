from __future__ import annotations

import pytest
import torch

from srcyc.errors import ConfigError, SRCycError
from srcyc.inference.refinement import Refiner, squared_norm
from srcyc.inference.tiling import SlabNetwork


class Counting(SlabNetwork):
    """Counts the voxels that go through the network."""

    voxels = 0

    def __call__(self, image, out, **arguments):
        self.voxels += image.numel()
        return super().__call__(image, out, **arguments)


@pytest.fixture
def slabs(network):
    return Counting(network(features=4, depth=2).folded(3.0), torch.device("cpu"), torch.float32)


def whole(slabs: SlabNetwork, image: torch.Tensor) -> torch.Tensor:
    return slabs(image, torch.empty_like(image), slab=1000)


@pytest.mark.parametrize("background", [0.0, -0.07])
@pytest.mark.parametrize(
    "head",
    [
        (slice(30, 38), slice(33, 40), slice(28, 36)),  # in the middle
        (slice(0, 9), slice(60, 70), slice(30, 36)),  # touching two faces
        (slice(9, 15), slice(3, 8), slice(50, 62)),  # near faces
    ],
)
def test_flat_background_is_left_out_exactly(slabs, background, head):
    image = torch.full((66, 70, 64), background)
    image[head] = torch.rand(image[head].shape, generator=torch.Generator().manual_seed(0))
    expected = whole(slabs, image)
    slabs.voxels = 0

    found = Refiner(slabs).residual(image)

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert slabs.voxels < 0.4 * image.numel()


def test_a_noisy_background_is_not_left_out(slabs):
    image = 0.01 * torch.rand(30, 31, 32, generator=torch.Generator().manual_seed(0))
    expected = whole(slabs, image)

    torch.testing.assert_close(Refiner(slabs).residual(image), expected, atol=1e-5, rtol=0)


def test_less_memory_means_thinner_slabs(slabs):
    shape = (100, 64, 64)
    assert Refiner(slabs).slab(shape) > 4
    assert Refiner(slabs, tile=7).slab(shape) == 7
    fixed = 16 * 100 * 64 * 64 + slabs.held_bytes(64 * 64)
    assert Refiner(slabs, max_memory=fixed + 5 * slabs.slab_bytes(64 * 64)).slab(shape) == 5


def test_too_little_memory_is_refused(slabs):
    with pytest.raises(
        ConfigError, match=r"max memory 0.001 GB: an output of 100 x 64 x 64 voxels needs 0.0\d+ GB"
    ):
        Refiner(slabs, max_memory=10**6).slab((100, 64, 64))


def test_squared_norm():
    image = torch.rand(50, 40, 30)
    assert squared_norm(image) == pytest.approx(float(image.double().square().sum()), rel=1e-9)


def test_a_result_that_is_not_finite_fails():
    image = torch.rand(4, 4, 4)
    image[1, 2, 3] = torch.inf
    with pytest.raises(SRCycError, match="fp32"):
        squared_norm(image)
