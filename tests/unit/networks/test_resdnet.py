"""The residual estimator: its halo is its true receptive field, so tiles equal the whole image."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from srcyc.networks.resdnet import ResDNet


def make(dims: int, depth: int, features: int = 3, **options: int) -> ResDNet:
    """A network in float64 whose every parameter matters."""
    torch.manual_seed(dims + depth)
    network = ResDNet(dims, 1, features, depth, **options).double()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return network


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_halo_at_the_products_depth() -> None:
    assert ResDNet(2, 1, 4, 5).halo == 14


@pytest.mark.parametrize(("dims", "depth"), [(2, 1), (2, 3), (2, 5), (3, 1), (3, 2)])
def test_halo_is_the_receptive_field(dims: int, depth: int) -> None:
    network = make(dims, depth)
    halo = network.halo
    n = 2 * (halo + 3) + 1
    x = random(1, 1, n, *(3,) * (dims - 1)).requires_grad_()
    probe = network(x)[0, 0, n // 2].sum()
    (gradient,) = torch.autograd.grad(probe, x)
    reached = gradient[0, 0].abs().flatten(1).amax(dim=1).nonzero().flatten().tolist()
    assert reached[0] == n // 2 - halo
    assert reached[-1] == n // 2 + halo


def test_a_voxel_is_seen_at_the_halo_and_not_beyond() -> None:
    network = make(2, 2)
    x = random(1, 1, 41, 8)
    before = network(x)[0, 0, 20]
    for distance, seen in ((network.halo, True), (network.halo + 1, False)):
        for side in (-1, 1):
            other = x.clone()
            other[0, 0, 20 + side * distance] += 1
            assert torch.equal(network(other)[0, 0, 20], before) != seen


def cuts(n: int, core: int, halo: int) -> list[tuple[slice, slice, slice]]:
    """Tiles along an axis: what to read, what to keep of the whole, and where that is in the tile."""
    result = []
    for start in range(0, n, core):
        stop = min(start + core, n)
        low, high = max(start - halo, 0), min(stop + halo, n)
        result.append((slice(low, high), slice(start, stop), slice(start - low, stop - low)))
    return result


@pytest.mark.parametrize(
    ("shape", "core", "depth"),
    [((40, 37), 13, 2), ((40, 37), 50, 2), ((31, 33), 7, 1), ((20, 17, 23), 9, 1), ((12, 30, 14), 5, 2)],
)
def test_tiles_with_a_halo_equal_the_whole_image(shape: tuple[int, ...], core: int, depth: int) -> None:
    network = make(len(shape), depth, condition_features=4)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    condition = random(1, 4)
    x = random(1, 1, *shape)
    with torch.no_grad():
        whole = network(x, condition)
        tiled = torch.full_like(whole, torch.nan)
        for tile in product(*(cuts(n, core, network.halo) for n in shape)):
            read, keep, inner = zip(*tile, strict=True)
            tiled[(..., *keep)] = network(x[(..., *read)], condition)[(..., *inner)]
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 9), (3, 4), (2, 2, 2), (5, 2, 3)])
def test_tiny_images_pass(shape: tuple[int, ...]) -> None:
    result = make(len(shape), 2)(random(1, 1, *shape))
    assert result.shape == (1, 1, *shape)
    assert torch.isfinite(result).all()


def test_only_the_first_block_has_no_shortcut() -> None:
    network = make(2, 4)
    assert [block.shortcut for block in network.blocks] == [False, True, True, True]
    # Blocks with a shortcut and dead convolutions pass what they get; the first gives nothing on.
    x = random(1, 1, 12, 12)
    with torch.no_grad():
        for block in network.blocks[1:]:
            block.conv2.set_weight(torch.zeros_like(block.conv2.conv.weight) + 1e-30)
            block.conv2.conv.bias.zero_()
        shallow = network.tail(network.blocks[0](network.head(x), None))
    torch.testing.assert_close(network(x), shallow, rtol=0, atol=1e-12)


def test_images_of_a_batch_are_independent() -> None:
    network, x = make(3, 2), random(3, 1, 8, 9, 7)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=0, atol=1e-12)
