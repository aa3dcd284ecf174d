from __future__ import annotations

import numpy as np
import pytest
import torch

from srcyc.acquisition import Acquisition
from srcyc.data.windows import Window
from srcyc.resampling import resample


def image(length: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3, 4, length)))


@pytest.mark.parametrize(("slices", "fine"), [(5, 17), (8, 12), (6, 48), (7, 10)])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_without_context_it_is_the_plain_acquisition_and_interpolation(
    slices: int, fine: int, ratio: float
) -> None:
    window = Window(slices, fine)
    truth = image(fine)
    thick = window.acquire(truth, 0, ratio)
    operator = Acquisition((3, 4, fine), (3, 4, slices), ratio)
    torch.testing.assert_close(thick, operator.apply(truth), rtol=0, atol=1e-12)
    for mode in ("linear", "cubic"):
        expected = resample(thick, (3, 4, fine), mode)
        torch.testing.assert_close(window.upscale(thick, mode), expected, rtol=0, atol=1e-12)


def test_with_context_it_is_the_middle_of_the_whole() -> None:
    """Where context is a whole number of fine voxels, a longer field of view says what must come out."""
    whole, part = Window(10, 25), Window(6, 15, 2, 2)
    truth = image(25)
    thick = whole.acquire(truth, 0, 0.8)
    torch.testing.assert_close(part.acquire(truth, 5, 0.8), thick, rtol=0, atol=1e-12)
    assert torch.equal(part.inner(thick), thick[..., 2:8])
    for mode in ("linear", "cubic"):
        expected = whole.upscale(thick, mode)[..., 5:20]
        torch.testing.assert_close(part.upscale(thick, mode), expected, rtol=0, atol=1e-12)


def test_flipped_is_the_mirror_image() -> None:
    window = Window(5, 17, 2, 0)
    stack = image(7)
    mirrored = window.flipped.upscale(stack.flip(-1), "cubic").flip(-1)
    torch.testing.assert_close(mirrored, window.upscale(stack, "cubic"), rtol=0, atol=1e-12)
    assert torch.equal(window.flipped.inner(stack.flip(-1)).flip(-1), window.inner(stack))


def test_the_margin_holds_the_context_and_no_more_than_there_is() -> None:
    window = Window(6, 20, 2, 2)
    assert window.margin(100) == 9  # two and a half slices
    assert window.margin(7) == 7
    assert window.acquire(image(20 + 14), 7, 1.0).shape[-1] == 10


def test_at_factor_one_nothing_is_blurred() -> None:
    truth = image(12)
    assert torch.equal(Window(8, 8, 1, 1).acquire(truth, 2, 1.0), truth[..., 1:11])
