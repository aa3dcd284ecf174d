from __future__ import annotations

import pytest
import torch

from srcyc.acquisition import Acquisition
from srcyc.inference import consistency
from srcyc.inference.consistency import SlabAcquisition

SHAPES = [
    ((20, 21, 24), (20, 21, 6)),  # the slice axis only
    ((20, 21, 24), (18, 21, 7)),  # the slabs' axis too
    ((20, 22, 24), (19, 20, 7)),  # every axis
]


@pytest.mark.parametrize(("fine", "scan"), SHAPES)
@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_slabs_do_what_the_operator_does(monkeypatch, fine, scan, ratio):
    monkeypatch.setattr(consistency, "_SLAB_VOXELS", 3 * fine[1] * fine[2])
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(fine, generator=generator), torch.rand(scan, generator=generator)
    operator = Acquisition(fine, scan, ratio, slice_axis=2)
    corrected = operator.correct(x, y)
    slabs = SlabAcquisition(fine, scan, ratio)

    torch.testing.assert_close(slabs.apply(x), operator.apply(x), atol=1e-5, rtol=0)
    before, after = slabs.correct_(x, y, 0.0)

    torch.testing.assert_close(x, corrected, atol=1e-4, rtol=0)
    assert before > 0.1
    assert after == pytest.approx(operator.residual(corrected, y), abs=1e-5)
    assert after < 0.05 * before


def test_what_noise_explains_is_left_and_the_rest_corrected_down_to_it():
    generator = torch.Generator().manual_seed(0)
    fine, scan = (12, 12, 24), (12, 12, 6)
    slabs = SlabAcquisition(fine, scan)
    truth = torch.rand(fine, generator=generator)
    y = slabs.apply(truth)
    noise = torch.empty(scan).uniform_(-0.01, 0.01, generator=generator)
    untouched = truth.clone()
    slabs.correct_(untouched, y + noise, 0.02)
    assert torch.equal(untouched, truth)

    x = truth + 0.2 * torch.rand(fine, generator=generator)
    slabs.correct_(x, y, 0.02)
    assert float((slabs.apply(x) - y).abs().max()) == pytest.approx(0.02, rel=0.02)


def test_a_scan_of_zeros_has_a_finite_residual():
    slabs = SlabAcquisition((4, 4, 8), (4, 4, 2))
    assert slabs.residual(torch.zeros(4, 4, 8), torch.zeros(4, 4, 2)) == 0.0
