"""SliceResDNet: packed on the scan's own slices, local, and silent before training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from srcyc.networks import Sampling, SliceResDNet
from srcyc.networks.sliceresdnet import PLANES_IN, PLANES_OUT, VoxelNorm, pack, unpack

TOLD = Sampling(4.0, 0.8)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def lively(depth: int = 1, features: int = 8, seed: int = 0) -> SliceResDNet:
    """A network of which every weight matters, in float64."""
    torch.manual_seed(seed)
    network = SliceResDNet(features=features, depth=depth)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return network.double().eval()


# -- packing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [1, 4, 8])
def test_unpacking_undoes_packing(planes: int) -> None:
    image = random(2, 1, 6, 8, 3 * planes)
    packed = pack(image, planes)
    assert packed.shape == (2, 4 * planes, 3, 4, 3)
    assert torch.equal(unpack(packed, planes), image)


def test_channels_are_the_voxels_of_a_cell_row_by_row_then_its_sub_planes() -> None:
    """Weights of published models depend on the order."""
    image = torch.arange(4 * 4 * 8).reshape(1, 1, 4, 4, 8)
    packed = pack(image, 4)
    for row in range(2):
        for column in range(2):
            for plane in range(4):
                channel = packed[0, 8 * row + 4 * column + plane]
                assert torch.equal(channel, image[0, 0, row::2, column::2, plane::4])


@pytest.mark.parametrize("shape", [(7, 6), (6, 5), (7, 5)])
def test_an_odd_row_or_column_is_packed_with_a_copy_of_itself(shape: tuple[int, int]) -> None:
    """Beside nothing, the edge of an odd image would look like the edge of the head."""
    network, image = lively(), random(1, 1, 8, 6, 8).double()
    odd = image[:, :, : shape[0], : shape[1]]
    rows, columns = (torch.arange(n + n % 2).clamp(max=n - 1) for n in shape)
    even = odd[:, :, rows][:, :, :, columns]
    for found, expected in zip(network.estimate(odd, [TOLD]), network.estimate(even, [TOLD]), strict=True):
        torch.testing.assert_close(found, expected[:, :, : shape[0], : shape[1]], rtol=0, atol=1e-12)


# -- what comes out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 8, 3), (7, 8, 3), (6, 5, 2), (1, 1, 1), (2, 3, 5)])
def test_sub_planes_come_in_and_finer_ones_and_a_value_per_voxel_go_out(shape: tuple[int, int, int]) -> None:
    i, j, s = shape
    network = lively()
    taken, given = network.planes(17, s)
    assert (taken, given) == (PLANES_IN * s, PLANES_OUT * s) == network.planes(99, s)
    between, slices = network.estimate(random(2, 1, i, j, taken).double(), [TOLD, Sampling(7.0, 1.0)])
    assert between.shape == (2, 1, i, j, given)
    assert slices is not None
    assert slices.shape == (2, 1, i, j, s)
    assert between.isfinite().all() and slices.isfinite().all()


def test_before_training_it_says_nothing() -> None:
    torch.manual_seed(0)
    network = SliceResDNet(features=16, depth=3)
    between, slices = network.estimate(random(1, 1, 8, 8, 12), [TOLD])
    assert slices is not None
    assert not between.any() and not slices.any()
    # A block passes what it gets, too.
    x = random(1, 16, 4, 4, 3)
    assert torch.equal(network.blocks[0](x), x)


def test_the_output_is_scaled_to_what_is_left_to_predict() -> None:
    network = lively()
    with torch.no_grad():
        network.tail.weight.zero_()
        network.tail.bias.copy_(torch.arange(36.0))
    between, slices = network.estimate(random(1, 1, 4, 4, 8).double(), [TOLD])
    expected = 0.05 * torch.arange(36.0).double()
    assert slices is not None
    torch.testing.assert_close(pack(between, 8)[0, :, 0, 0, 0], expected[:32])
    torch.testing.assert_close(pack(slices, 1)[0, :, 0, 0, 0], expected[32:])


@pytest.mark.parametrize("features", [8, 32])
def test_a_block_is_what_the_papers_say(features: int) -> None:
    network = lively(features=features)
    block = network.blocks[0]
    x = random(1, features, 4, 5, 3).double()
    normed = torch.nn.functional.layer_norm(
        x.movedim(1, -1), (features,), block.norm.weight, block.norm.bias
    ).movedim(-1, 1)
    inner = torch.nn.functional.silu(
        torch.nn.functional.conv3d(normed, block.conv1.weight, block.conv1.bias, padding=1)
    )
    expected = x + torch.nn.functional.conv3d(inner, block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), expected)


def test_the_norm_looks_at_single_voxels() -> None:
    norm = VoxelNorm(8)
    x = random(2, 8, 3, 4, 5)
    other = x.clone()
    other[0, :, 1, 1, 1] += random(8, seed=1)
    differs = (norm(x) != norm(other)).any(dim=1)
    assert differs.nonzero().tolist() == [[0, 1, 1, 1]]
    torch.testing.assert_close(norm(x).mean(dim=1), torch.zeros(2, 3, 4, 5), rtol=0, atol=1e-6)


# -- how far it sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_reach_is_what_it_depends_on_and_no_more(depth: int, axis: int) -> None:
    network = lively(depth)
    reach, n = network.reach, 8 * depth + 20
    shape = [1, 1, 4, 4, 4]
    shape[axis] = n
    x = random(*shape).double()
    # A place and the one beside it lie differently in their packed cells: the reach covers both.
    furthest = {-1: 0, 1: 0}
    with torch.no_grad():
        before = network.estimate(x, [TOLD])
        for place in (n // 2, n // 2 + 1):
            for side in (-1, 1):
                for distance in (reach - 1, reach, reach + 1):
                    other = x.clone()
                    other.select(axis, place + side * distance).add_(1)
                    after = network.estimate(other, [TOLD])
                    seen = any(
                        not torch.equal(a.select(axis, place), b.select(axis, place))
                        for a, b in zip(before, after, strict=True)
                    )
                    if seen:
                        furthest[side] = max(furthest[side], distance)
    assert furthest == {-1: reach, 1: reach}


def test_more_depth_more_reach_and_more_memory() -> None:
    assert SliceResDNet(features=8, depth=3).reach > SliceResDNet(features=8, depth=2).reach
    network = SliceResDNet(features=16, depth=1)
    # One packed row: (columns / 2) x slices voxels of 16 features, for two rows of the scan.
    assert network.features_per_row(40, 99, 10) == 16 * 20 * 10 // 2
    assert network.row_step == 2


# -- what it is told ---------------------------------------------------------------------------------------------


def test_what_is_told_of_the_sampling_matters_and_each_item_is_told_its_own() -> None:
    network, x = lively(), random(1, 1, 6, 6, 12).double().expand(3, -1, -1, -1, -1)
    samplings = [Sampling(2.0, 0.8), Sampling(8.0, 0.8), Sampling(2.0, 1.0)]
    between, _ = network.estimate(x, samplings)
    assert (between[0] - between[1]).abs().max() > 1e-4
    assert (between[0] - between[2]).abs().max() > 1e-4
    for item, sampling in enumerate(samplings):
        alone, _ = network.estimate(x[:1], [sampling])
        torch.testing.assert_close(between[item : item + 1], alone, rtol=0, atol=1e-12)


def test_the_sampling_is_told_as_constants_of_about_one() -> None:
    network = SliceResDNet(features=8, depth=1)
    seen: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.estimate(random(2, 1, 4, 4, 8), [Sampling(4.0, 0.9), Sampling(8.0, 0.65)])
    (x,) = seen
    assert x.shape == (2, 18, 2, 2, 2)
    told = x[:, 16:]
    torch.testing.assert_close(told[0], torch.zeros_like(told[0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(told[1, 0], torch.ones_like(told[1, 0]))
    torch.testing.assert_close(told[1, 1], -torch.ones_like(told[1, 1]))


# -- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [23, 24])
@pytest.mark.parametrize("columns", [5, 6])
def test_a_stream_is_the_estimate(rows: int, columns: int) -> None:
    network, x = lively(depth=2), random(1, 1, rows, columns, 8).double()
    stream = network.stream(TOLD)
    with torch.no_grad():
        expected = network.estimate(x, [TOLD])
        parts = [stream(x[:, :, :16], False), stream(x[:, :, 16:20], False), stream(x[:, :, 20:], True)]
    for whole, *pieces in zip(expected, *parts, strict=True):
        torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-12)


def test_it_takes_a_batch_of_any_layout() -> None:
    network, x = lively(), random(2, 1, 6, 6, 8).double()
    expected = network.estimate(x, [TOLD, TOLD])
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    found = network.estimate(turned, [TOLD, TOLD])
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-12)


def test_bfloat16_is_finite_and_close() -> None:
    network, x = lively().float(), random(2, 1, 6, 6, 8)
    exact, _ = network.estimate(x, [TOLD, TOLD])
    with torch.autocast("cpu", torch.bfloat16):
        between, slices = network.estimate(x, [TOLD, TOLD])
    assert slices is not None
    (between.float().square().mean() + slices.float().square().mean()).backward()
    assert 0 < (between - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_parameters() -> None:
    """The size of the shipped network; a change of the architecture cannot load its weights."""
    assert sum(p.numel() for p in SliceResDNet(features=48, depth=6).parameters()) == 817_812
