"""Winograd's convolution gives what the ordinary one gives, for odd and single columns too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from srcyc.networks import winograd
from srcyc.networks.sliceresdnet import Convolution

WIDE = 32


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("columns", [1, 2, 3, 8])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@torch.inference_mode()
def test_it_is_the_convolution(columns: int, memory_format: torch.memory_format) -> None:
    x = random(2, 5, 6, columns, 4).contiguous(memory_format=memory_format)
    weight, bias = random(7, 5, 3, 3, 3, seed=1), random(7, seed=2)
    found = winograd.convolution(weight, bias)(x)
    torch.testing.assert_close(found, F.conv3d(x, weight, bias, padding=(0, 1, 1)), rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@torch.inference_mode()
def test_its_rounding_stays_small(dtype: torch.dtype, most: float) -> None:
    """Relative to the exact result of the rounded numbers; the ordinary one in bf16 has 2e-3."""
    x, bias = random(1, WIDE, 4, 6, 5).to(dtype), random(WIDE, seed=2).to(dtype)
    weight = random(WIDE, WIDE, 3, 3, 3, seed=1).to(dtype)
    exact = F.conv3d(x.double(), weight.double(), bias.double(), padding=(0, 1, 1))
    error = winograd.convolution(weight, bias)(x).double() - exact
    assert error.norm() < most * exact.norm()


@torch.inference_mode()
def test_a_wide_layer_s_stream_takes_it_and_a_narrow_one_s_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    prepare = winograd.convolution
    monkeypatch.setattr(winograd, "convolution", lambda w, b: prepared.append(w.shape) or prepare(w, b))
    for channels in (8, WIDE):
        layer = Convolution(channels, channels).double()
        x = random(1, channels, 6, 5, 4)
        torch.testing.assert_close(layer.stream()(x, True), layer(x), rtol=0, atol=1e-12)
    assert prepared == [(WIDE, WIDE, 3, 3, 3)]
