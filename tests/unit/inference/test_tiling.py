from __future__ import annotations

import pytest
import torch

from srcyc.errors import ConfigError, VolumeError
from srcyc.inference.tiling import SlabNetwork

CPU = torch.device("cpu")
#: The product's network, and one without odd sizes' luck.
PRODUCT = {"features": 16, "depth": 5}


@pytest.mark.parametrize("shape", [(40, 21, 19), (33, 8, 17), (17, 16, 3), (3, 5, 4)])
@pytest.mark.parametrize("slab", [1, 6, 1000])
def test_slabs_equal_the_whole_volume(network, shape, slab):
    whole = network(**PRODUCT).folded(4.3, 0.8)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    expected = whole(image[None, None])[0, 0]

    found = SlabNetwork(whole, CPU, torch.float32)(image, torch.empty(shape), slab=slab)

    assert expected.abs().max() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("features", "depth"), [(3, 1), (8, 3)])
def test_slabs_equal_the_whole_volume_for_other_networks(network, features, depth):
    whole = network(features=features, depth=depth, knows_sampling=False).folded(1.0)
    image = torch.rand(23, 12, 14, generator=torch.Generator().manual_seed(1))

    found = SlabNetwork(whole, CPU, torch.float32)(image, torch.empty_like(image), slab=5)

    torch.testing.assert_close(found, whole(image[None, None])[0, 0], atol=1e-5, rtol=0)


def test_slopes_above_one_are_no_maximum(network):
    net = network(features=4, depth=1)
    with torch.no_grad():
        net.resdnet.blocks[0].relu1.weight.fill_(1.7)
    whole = net.folded(2.0)
    image = torch.rand(9, 9, 9, generator=torch.Generator().manual_seed(1))

    found = SlabNetwork(whole, CPU, torch.float32)(image, torch.empty_like(image), slab=4)

    torch.testing.assert_close(found, whole(image[None, None])[0, 0], atol=1e-5, rtol=0)


def test_bf16_is_near_fp32(network):
    whole = network(**PRODUCT).folded(4.0)
    image = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(1))
    expected = whole(image[None, None])[0, 0]

    found = SlabNetwork(whole, CPU, torch.bfloat16)(image, torch.empty_like(image), slab=8)

    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_progress_rises_to_one(network):
    shares: list[float] = []
    image = torch.rand(30, 6, 6)

    SlabNetwork(network(features=4, depth=2).folded(2.0), CPU, torch.float32)(
        image, torch.empty_like(image), slab=6, progress=shares.append
    )

    assert len(shares) > 2
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_an_axis_too_thin_to_reflect_is_refused(network):
    slabs = SlabNetwork(network(features=4, depth=1).folded(2.0), CPU, torch.float32)
    with pytest.raises(VolumeError, match="9 x 2 x 9 voxels"):
        slabs(torch.rand(9, 2, 9), torch.empty(9, 2, 9), slab=4)


def test_a_2d_network_is_refused(network):
    with pytest.raises(ConfigError, match="3D"):
        SlabNetwork(network(features=4, depth=1, spatial_dims=2).folded(2.0), CPU, torch.float32)
