"""Intensity scaling: robust, and undone exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from srcyc.volumes.intensity import IntensityScaling, foreground_mask, robust_scaling

Phantom = Callable[..., np.ndarray]


def volumes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ordinary = rng.uniform(0, 800, (1, 12, 13, 14))
    bright = ordinary.copy()
    bright[0, 3, 4, 5] = 20_000
    return {
        "ordinary": ordinary,
        "negative": ordinary - 400,
        "one bright voxel": bright,
        "far from zero": 0.01 * ordinary + 3000,
        "tiny": 1e-6 * ordinary,
        "constant": np.full((1, 5, 6, 7), 0.1),
        "zero": np.zeros((1, 5, 6, 7)),
    }


@pytest.mark.parametrize("name", list(volumes()))
def test_inversion_is_exact_to_float32_rounding(name: str) -> None:
    data = volumes()[name].astype(np.float32)
    scaling = robust_scaling(data)
    rounding = 4 * np.finfo(np.float32).eps * np.abs(data).max()
    back = scaling.invert(scaling.normalise(data))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, data, rtol=0, atol=rounding)
    tensor = torch.from_numpy(data)
    back_tensor = scaling.invert(scaling.normalise(tensor))
    assert back_tensor.dtype == torch.float32
    np.testing.assert_allclose(back_tensor.numpy(), data, rtol=0, atol=rounding)


def test_the_formula() -> None:
    scaling = IntensityScaling(offset=10.0, scale=40.0)
    data = np.array([10, 50, 130, -30], dtype=np.float32)
    np.testing.assert_allclose(scaling.normalise(data), [0, 1, 3, -1])
    np.testing.assert_allclose(scaling.invert(np.array([0, 1, 3, -1], dtype=np.float32)), data)


def test_bright_voxels_are_carried_through_above_one() -> None:
    data = volumes()["one bright voxel"].astype(np.float32)
    scaling = robust_scaling(data)
    normalised = scaling.normalise(data)
    assert normalised.max() > 20
    assert np.count_nonzero(normalised > 1) < 0.01 * data.size
    without = robust_scaling(volumes()["ordinary"].astype(np.float32))
    assert scaling.scale == pytest.approx(without.scale, rel=0.01)  # one voxel does not set the scale


def test_a_volume_without_a_value_is_left_as_it_is() -> None:
    assert robust_scaling(np.full((1, 9, 8, 7), np.nan, np.float32)) == IntensityScaling(0.0, 1.0)


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.1, 1e-7, 4000.3])
def test_a_constant_volume_is_left_as_it_is(value: float) -> None:
    data = np.full((1, 9, 8, 7), value, dtype=np.float32)
    assert robust_scaling(data) == IntensityScaling(offset=0.0, scale=1.0)


@pytest.mark.parametrize("background", [0.3, 0.9, 0.97])
def test_the_share_of_background_does_not_matter(background: float) -> None:
    rng = np.random.default_rng(1)
    tissue = rng.normal(600, 60, 20_000)
    empty = np.zeros(round(len(tissue) * background / (1 - background)))
    scaling = robust_scaling(np.concatenate([empty, tissue]).astype(np.float32))
    assert scaling.offset == 0
    # The foreground's 99.5th percentile: between its 98th and its largest value, whatever the background.
    assert np.percentile(tissue, 98) < scaling.scale <= tissue.max()


def test_normalised_tissue_fills_the_unit_range(phantom: Phantom) -> None:
    data = 700 * phantom() - 50
    normalised = robust_scaling(data).normalise(data)
    assert np.percentile(normalised, 0.5) == pytest.approx(0, abs=1e-4)
    assert 0.99 < np.percentile(normalised[normalised > normalised.mean()], 99.5) < 1.01
    assert normalised.max() > 1
    assert normalised.min() < 0


@pytest.mark.parametrize(("gain", "shift"), [(1000.0, 0.0), (0.003, 0.0), (25.0, 300.0), (40.0, -1000.0)])
def test_normalised_intensity_does_not_depend_on_the_raw_unit(
    phantom: Phantom, gain: float, shift: float
) -> None:
    data = phantom((20, 24, 18))
    other = (data.astype(np.float64) * gain + shift).astype(np.float32)
    np.testing.assert_allclose(
        robust_scaling(other).normalise(other), robust_scaling(data).normalise(data), rtol=0, atol=2e-5
    )
    np.testing.assert_array_equal(foreground_mask(other), foreground_mask(data))


def test_foreground_is_the_head(phantom: Phantom) -> None:
    head = phantom(noise=0.0) > 0.3
    mask = foreground_mask(500 * phantom())
    assert mask.shape == head.shape
    assert mask.dtype == np.bool_
    assert mask[head].mean() > 0.99
    assert not mask[0, 0].any()  # the outermost plane is air


def test_data_are_not_changed() -> None:
    data = volumes()["ordinary"].astype(np.float32)
    before = data.copy()
    robust_scaling(data).normalise(data)
    foreground_mask(data)
    np.testing.assert_array_equal(data, before)
