from __future__ import annotations

import numpy as np
import pytest
import torch

from srcyc.errors import InputError
from srcyc.losses import TotalVariationLoss


def ramp(shape: tuple[int, ...], slopes: tuple[float, ...]) -> torch.Tensor:
    axes = [
        slope * torch.arange(size, dtype=torch.float64) for size, slope in zip(shape, slopes, strict=True)
    ]
    return sum(torch.meshgrid(*axes, indexing="ij"))[None, None]  # type: ignore[index]


@pytest.mark.parametrize(
    ("shape", "slopes"),
    [((6, 9), (0.5, -0.25)), ((5, 8, 11), (0.1, -0.2, 0.4)), ((7, 1, 4), (1.0, 3.0, -2.0))],
)
def test_a_ramp_has_the_closed_form(shape: tuple[int, ...], slopes: tuple[float, ...]) -> None:
    value = TotalVariationLoss()(ramp(shape, slopes))
    expected = sum(abs(slope) * (size - 1) / size for size, slope in zip(shape, slopes, strict=True))
    assert float(value) == pytest.approx(expected)


def test_it_is_the_sum_of_absolute_differences_over_the_voxel_count() -> None:
    image = np.random.default_rng(0).random((6, 7, 8))
    expected = sum(np.abs(np.diff(image, axis=axis)).sum() for axis in range(3)) / image.size
    assert float(TotalVariationLoss()(torch.from_numpy(image)[None, None])) == pytest.approx(expected)


def test_the_patch_size_does_not_change_the_value() -> None:
    loss = TotalVariationLoss()
    small, large = ramp((8, 4, 4), (1.0, 0.0, 0.0)), ramp((8, 16, 32), (1.0, 0.0, 0.0))
    assert float(loss(small)) == pytest.approx(float(loss(large)))
    torch.manual_seed(0)
    noise = torch.rand(1, 1, 64, 64, 64)
    patches = [float(loss(noise[..., :size, :size, :size])) for size in (32, 64)]
    assert patches[0] == pytest.approx(patches[1], rel=0.03)  # the sum would be eight times as large


def test_noise_costs_more_than_the_clean_image_and_a_constant_nothing() -> None:
    loss = TotalVariationLoss()
    torch.manual_seed(0)
    clean = ramp((16, 16), (0.01, 0.02))
    assert float(loss(torch.full((1, 1, 16, 16), 3.0))) == 0.0
    assert loss(clean + 0.05 * torch.randn_like(clean)) > loss(clean)


def test_a_batch_equals_its_elements() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 2, 5, 6, 7)
    each = torch.stack([TotalVariationLoss()(image[None]) for image in images])
    torch.testing.assert_close(TotalVariationLoss()(images), each.mean())


def test_descent_along_its_gradient_smooths() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 12, 12).requires_grad_()
    before = TotalVariationLoss()(image)
    before.backward()
    assert image.grad is not None
    with torch.no_grad():
        assert TotalVariationLoss()(image - 0.5 * image.grad) < before


def test_half_precision_is_reduced_in_float32() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 16, 16, 16).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = TotalVariationLoss()(image)
    assert value.dtype == torch.float32
    assert torch.equal(value, TotalVariationLoss()(image.float()))


@pytest.mark.parametrize("shape", [(4, 4), (0, 1, 4, 4, 4)])
def test_what_is_no_batch_of_images_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(B, C, \*spatial\)"):
        TotalVariationLoss()(torch.zeros(shape))
