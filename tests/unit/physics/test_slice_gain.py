from __future__ import annotations

import math

import numpy as np
import pytest

from srcyc.physics.slice_gain import correction_share, slice_gain


@pytest.fixture(scope="module")
def scan(phantom) -> np.ndarray:
    return np.ascontiguousarray(phantom((40, 48, 36))[0, :, :, ::3])


def test_it_is_zero_for_a_ramp_and_the_injected_odd_even_gain_else():
    slices = np.broadcast_to(np.linspace(0.5, 0.8, 20), (6, 7, 20)).astype(np.float32)
    assert slice_gain(slices) == pytest.approx(0.0, abs=1e-4)
    flat = np.full((6, 7, 20), 0.6, np.float32)
    # (2(1 + g) - 2(1 - g)) / 2(1 + g) = 2g / (1 + g), and -2g / (1 - g) for the slice after it.
    flat *= np.where(np.arange(20) % 2, 1.03, 0.97).astype(np.float32)
    expected = 100 * math.sqrt(((0.06 / 1.03) ** 2 + (0.06 / 0.97) ** 2) / 2)
    assert slice_gain(flat) == pytest.approx(expected, rel=1e-4)


def test_it_is_of_the_head_in_the_middle_half(scan):
    spoiled, outside = scan.copy(), scan.copy()
    spoiled[..., 5] *= 1.1
    assert slice_gain(spoiled) > slice_gain(scan)
    outside[..., 0] *= 1.1
    assert slice_gain(outside) == slice_gain(scan)


def test_of_two_slices_or_of_air_it_is_none():
    assert slice_gain(np.ones((4, 4, 2), np.float32)) is None
    assert slice_gain(np.full((4, 4, 9), 0.1, np.float32)) is None


def test_a_correction_is_made_as_far_as_slices_agree_better(scan):
    bands = 0.05 * np.where(np.arange(scan.shape[2]) % 2, 1, -1).astype(np.float32) * scan
    banded = scan + bands
    before = slice_gain(banded)
    assert correction_share(banded, -bands, before) == 1.0
    # Twice too much turns the bands round; three times and a half too much leaves worse ones even halved.
    assert correction_share(banded, -2.5 * bands, before) == 0.5
    assert correction_share(banded, -5 * bands, before) == 0.25
    assert correction_share(banded, bands, before) == 0.0
    # Where nothing can be told, the network is believed.
    two = banded[..., :2]
    assert correction_share(two, bands[..., :2], slice_gain(two)) == 1.0
