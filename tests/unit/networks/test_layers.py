"""Layers: PyTorch's own wherever it has them, and the same on a tile as on the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from srcyc.networks.layers import (
    CHANNELS_LAST,
    Convolution,
    PReLU,
    convolve,
    pad,
    pad_planes,
)

SHAPES = {2: (9, 8), 3: (7, 6, 8)}
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
def test_convolution_is_torchs_with_reflection(kernel: int, weight_norm: bool) -> None:
    ours = Convolution(2, 3, 4, kernel, weight_norm=weight_norm)
    nn.init.normal_(ours.conv.bias)
    theirs = nn.Conv2d(3, 4, kernel, padding=kernel // 2, padding_mode="reflect")
    theirs.load_state_dict({"weight": ours.conv.weight.detach(), "bias": ours.conv.bias.detach()})
    x = random(2, 3, 9, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_transposed_convolution_is_torchs(dims: int) -> None:
    ours = Convolution(dims, 3, 2, 5, transposed=True)
    nn.init.normal_(ours.conv.bias)
    theirs = TRANSPOSED[dims](3, 2, 5, padding=2)
    theirs.load_state_dict({"weight": ours.conv.weight.detach(), "bias": ours.conv.bias.detach()})
    x = random(2, 3, *SHAPES[dims])
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_an_assigned_weight_stays(weight_norm: bool, transposed: bool) -> None:
    """The published code edits the derived weight of weight norm, which the next call throws away."""
    layer = Convolution(2, 3, 2, 3, weight_norm=weight_norm, transposed=transposed)
    weight = random(*layer.conv.weight.shape)
    layer.set_weight(weight)
    layer(random(1, 3, 6, 6))
    torch.testing.assert_close(layer.conv.weight, weight)
    assert len(list(layer.parameters())) == (3 if weight_norm else 2)


def test_initial_weights_have_hes_spread() -> None:
    for transposed in (False, True):
        weight = Convolution(2, 64, 32, 3, transposed=transposed).conv.weight
        assert float(weight.detach().std()) == pytest.approx((2 / 1.01 / (64 * 9)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_scaling_the_weights_scales_the_output(weight_norm: bool) -> None:
    layer, x = Convolution(2, 3, 2, 3, weight_norm=weight_norm), random(1, 3, 6, 6)
    expected = 0.1 * layer(x)
    layer.scale_weight(0.1)
    torch.testing.assert_close(layer(x), expected)
    assert all(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("transposed", [True, False])
def test_modulation_scales_and_shifts_channels(dims: int, transposed: bool) -> None:
    layer = Convolution(dims, 3, 2, 3, transposed=transposed, condition_features=4)
    nn.init.normal_(layer.conv.bias)
    x, condition = random(2, 3, *SHAPES[dims]), random(2, 4, seed=1)
    plain = layer(x)
    torch.testing.assert_close(layer(x, condition), plain)  # it starts as none
    nn.init.normal_(layer.modulation.weight)
    nn.init.normal_(layer.modulation.bias)
    scale, shift = layer.modulation(condition).chunk(2, dim=1)
    channels = (2, 2, *(1,) * dims)
    expected = plain * (1 + scale.reshape(channels)) + shift.reshape(channels)
    torch.testing.assert_close(layer(x, condition), expected, rtol=1e-4, atol=1e-4)
    single = torch.cat([layer(x[i : i + 1], condition[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(single, expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 0.1


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_stream_is_the_layer(kernel: int, weight_norm: bool, transposed: bool) -> None:
    """Slab by slab, modulated: equal to the layer on the whole volume, at both its ends too."""
    layer = Convolution(
        3, 3, 2, kernel, weight_norm=weight_norm, transposed=transposed, condition_features=4
    ).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, condition = random(1, 3, 9, 5, 4).double(), random(1, 4, seed=1).double()
    expected = layer(x, condition)
    assert (expected - layer(x)).abs().max() > 0.1
    for cut in ((9,), (6, 3), (5, 1, 1, 2)):
        stream, parts = layer.stream(condition), x.split(cut, dim=2)
        found = [stream(part, number == len(parts) - 1) for number, part in enumerate(parts)]
        torch.testing.assert_close(torch.cat(found, dim=2), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize("planes", [4, 2, 1])
def test_planes_are_padded_on_either_side_by_its_own_width(
    planes: int, before: int, after: int, mode: str
) -> None:
    x = random(1, 2, planes, 3, 2)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (before, after), (0, 0), (0, 0)), mode=mode)  # type: ignore[call-overload]
    np.testing.assert_array_equal(pad_planes(x, before, after, mode).numpy(), expected)


def test_an_axis_may_be_padded_by_a_width_of_its_own() -> None:
    x = random(1, 1, 4, 3, 2)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 0), (2, 2), (1, 1)), mode="reflect")
    np.testing.assert_array_equal(pad(x, (0, 2, 1), "reflect").numpy(), expected)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 6), (2, 6), (3, 2), (1, 4)])
def test_padding_reflects_about_voxel_centres_however_short_the_axis(
    shape: tuple[int, int], width: int
) -> None:
    x = random(2, 3, *shape)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (width, width), (width, width)), mode="reflect")
    np.testing.assert_array_equal(pad(x, width, "reflect").numpy(), expected)


def test_zero_padding_pads_with_zeros() -> None:
    x = random(1, 1, 2, 3)
    np.testing.assert_array_equal(
        pad(x, 2, "constant").numpy(), np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((2, 5, 6, 7), 5),
        ((1, 64, 8, 9), 64),
        ((2, 16, 5, 6, 7), 16),
        ((1, 3, 7, 11, 13), 3),
        ((2, 4, 6, 7), 1),
        ((2, 1, 3, 5), 1),
    ],
)
def test_prelu_is_torchs_in_value_and_gradient(
    shape: tuple[int, ...], parameters: int, layout: str, dtype: torch.dtype
) -> None:
    layer = PReLU(parameters).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-0.5, 0.7, parameters) if parameters > 1 else torch.tensor([0.3]))
    x = random(*shape).to(dtype)
    x.view(-1)[::7] = 0  # the kink
    cotangent = random(*shape, seed=1).to(dtype)
    if layout == "channels last":
        x = x.contiguous(memory_format=CHANNELS_LAST[len(shape)])
    x.requires_grad_()
    y = layer(x)
    grad_x, grad_slope = torch.autograd.grad(y, (x, layer.weight), cotangent)
    exact_x = x.detach().double().requires_grad_()
    exact_slope = layer.weight.detach().double().requires_grad_()
    exact = F.prelu(exact_x, exact_slope)
    exact_grads = torch.autograd.grad(exact, (exact_x, exact_slope), cotangent.double())
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert y.dtype == grad_x.dtype == grad_slope.dtype == dtype
    if layout == "channels last":
        assert y.is_contiguous(memory_format=CHANNELS_LAST[len(shape)])
    else:
        assert y.is_contiguous()
    torch.testing.assert_close(y.double(), exact, rtol=rounding, atol=1e-9)
    torch.testing.assert_close(grad_x.double(), exact_grads[0], rtol=rounding, atol=1e-9)
    # A sum of rounded products: relative to what a random sum of them comes to.
    spread = float((cotangent.double() * exact_x.detach().clamp_max(0)).norm())
    torch.testing.assert_close(grad_slope.double(), exact_grads[1], rtol=2 * rounding, atol=rounding * spread)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_a_single_output_channel_is_the_same_convolution(dtype: torch.dtype, tolerance: float) -> None:
    """It is computed another way; values and gradients are those of a plain convolution."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 9, 8, 7, dtype=dtype), torch.randn(1, 3, 5, 5, 5, dtype=dtype)
    bias = torch.randn(1, dtype=dtype)
    found = []
    for function in (convolve, F.conv3d):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = function(*leaves)
        y.square().mean().backward()
        found.append([y, *(leaf.grad for leaf in leaves)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance)
